// What the system says: time on processors, bytes sent.

import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';

/** Ticks of /proc/PID/stat: USER_HZ, 100 on every Linux. */
const TICK_MS = 10;
/** IPv4's and UDP's. */
const HEADERS_BYTES = 28;
/** IPv4's and TCP's with time stamps. Loopback's segments are larger than a network's, which is to the peer's good. */
const TCP_HEADERS_BYTES = 52;

/** Every process: its parent, its name and the time it has used. */
function processes() {
  const all = new Map();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    let stat;
    try {
      stat = readFileSync(`/proc/${name}/stat`, 'latin1');
    } catch {
      // It has just ended.
      continue;
    }
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    all.set(Number(name), { parent: Number(fields[1]), ms: (Number(fields[11]) + Number(fields[12])) * TICK_MS });
  }
  return all;
}

/** The time that processes have used, together with those they started. */
export function processorTime(roots) {
  const all = processes();
  let sum = 0;
  for (const [pid, { ms }] of all) {
    let at = pid;
    while (at !== undefined && !roots.includes(at)) at = all.get(at)?.parent;
    if (at !== undefined) sum += ms;
  }
  return sum;
}

/** Counts the UDP payload that goes from one port to another, in this network namespace. */
export class DatagramCounter {
  constructor(from, to) {
    const rules = `table inet compare {\n counter sent { }\n chain out {\n type filter hook output priority 0;\n udp sport ${from} udp dport ${to} counter name sent\n }\n}\n`;
    execFileSync('nft', ['-f', '-'], { input: rules });
  }

  sent() {
    const { nftables } = JSON.parse(execFileSync('nft', ['-j', 'list', 'counters'], { encoding: 'utf8' }));
    const { packets, bytes } = nftables.find((entry) => entry.counter).counter;
    return { bytes: bytes - HEADERS_BYTES * packets, wire_bytes: bytes, packets };
  }
}

/** What the server on a TCP port has given to its one viewer. */
export function streamSent(port) {
  const text = execFileSync('ss', ['-tinH', 'state', 'established', `sport = :${port}`], { encoding: 'utf8' });
  const field = (name) => Number(text.match(new RegExp(`\\b${name}:(\\d+)`))?.[1] ?? 0);
  const [bytes, packets] = [field('bytes_sent'), field('segs_out')];
  return { bytes, wire_bytes: bytes + TCP_HEADERS_BYTES * packets, packets };
}

/** The UDP ports that a process has open. */
export function udpPorts(pid) {
  const text = execFileSync('ss', ['-uanpH'], { encoding: 'utf8' });
  return text.split('\n').filter((row) => row.includes(`pid=${pid},`)).map((row) => Number(row.match(/:(\d+)\s/)[1]));
}

export const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
/** Milliseconds since the epoch, as pages count them. */
export const clock = () => performance.timeOrigin + performance.now();
export const round = (value) => Math.round(value * 10) / 10;
