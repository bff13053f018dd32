// A slow path for UDP between a node and a relay, in a process of its own: rate, delay, loss and a queue that overflows, in
// both directions. The kernel's netem would do the same, where the kernel has it; this needs no privilege.
//
// Arguments: the relay's port, kbit/s, delay in ms, loss as a share, queue in ms. Says its own port.

import { createSocket } from 'node:dgram';

const [relay, rate, delay, loss, queue] = process.argv.slice(2).map(Number);
/** IPv4's header and UDP's. */
const HEADERS_BYTES = 28;

/** The same losses in each run (xorshift32). */
function seeded(state) {
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

class Direction {
  lost = 0;
  overflowed = 0;
  bytes = 0;
  #free = 0;
  #random;
  #send;

  constructor(seed, send) {
    this.#random = seeded(seed);
    this.#send = send;
  }

  take(datagram) {
    const now = performance.now();
    const start = Math.max(now, this.#free);
    if (start - now > queue) {
      this.overflowed += 1;
      return;
    }
    // A lost datagram has used the path.
    this.#free = start + ((datagram.length + HEADERS_BYTES) * 8) / rate;
    if (this.#random() < loss) {
      this.lost += 1;
      return;
    }
    this.bytes += datagram.length;
    setTimeout(this.#send, this.#free + delay - now, datagram);
  }
}

const near = createSocket('udp4');
const far = createSocket('udp4');
let node = null;
const up = new Direction(0x9e3779b9, (datagram) => far.send(datagram, relay, '127.0.0.1'));
const down = new Direction(0x85ebca6b, (datagram) => near.send(datagram, node, '127.0.0.1'));
near.on('message', (datagram, { port }) => {
  node = port;
  up.take(datagram);
});
far.on('message', (datagram) => down.take(datagram));
process.on('message', () => {
  const told = ({ bytes, lost, overflowed }) => ({ bytes, lost, overflowed });
  process.send({ up: told(up), down: told(down) });
});
far.bind(0, '127.0.0.1');
near.bind(0, '127.0.0.1', () => process.send({ port: near.address().port }));
process.on('disconnect', () => process.exit());
