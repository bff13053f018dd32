// Programs that a script starts, what they say, and what an X server shows.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const LIMIT_MS = 20_000;

/** What was started, in a home of its own; all of it ends with `end`. */
export class Programs {
  #home;
  #children = [];

  constructor(home) {
    this.#home = home;
  }

  start(command, args, env = {}, stdio = ['ignore', 'pipe', 'pipe']) {
    const own = { HOME: this.#home, XDG_RUNTIME_DIR: this.#home, XDG_CONFIG_HOME: this.#home };
    const child = spawn(command, args, { env: { ...process.env, ...own, ...env }, stdio });
    this.#children.push(child);
    child.said = '';
    child.stderr?.on('data', (data) => { child.said += data; });
    return child;
  }

  end() {
    for (const child of this.#children) child.kill('SIGKILL');
  }
}

/** The first line of a program's standard output that `wanted` makes something of. */
export function line(child, what, wanted, limit = LIMIT_MS) {
  child.lines ??= createInterface({ input: child.stdout });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${what}: ${child.said}`)), limit);
    child.lines.on('line', (text) => {
      const found = wanted(text);
      if (found) { clearTimeout(timer); resolve(found); }
    });
  });
}

export const event = (name) => (text) => { const said = JSON.parse(text); return said.event === name ? said : null; };

/** An X server with one screen of 1920 × 1080; its display's name. The number is its own choice unless one is given. */
export async function xServer(programs, wanted) {
  const xvfb = programs.start('Xvfb', [...(wanted ? [`:${wanted}`] : []), '-displayfd', '3', '-screen', '0', '1920x1080x24', '-nolisten', 'tcp'], {}, ['ignore', 'ignore', 'pipe', 'pipe']);
  const [number] = await once(xvfb.stdio[3], 'data');
  return { display: `:${String(number).trim()}`, pid: xvfb.pid };
}

/** The X server's own picture, as red, green, blue, 255. */
export async function real(programs, display) {
  const xwd = programs.start('xwd', ['-silent', '-root', '-display', display]);
  const parts = [];
  xwd.stdout.on('data', (part) => parts.push(part));
  await once(xwd, 'close');
  const file = Buffer.concat(parts);
  const field = (number) => file.readUInt32BE(number * 4);
  const [headerSize, width, height, bytesPerLine, colours] = [field(0), field(4), field(5), field(12), field(19)];
  const pixels = headerSize + colours * 12;
  const out = Buffer.alloc(width * height * 4, 255);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const from = pixels + y * bytesPerLine + x * 4;
      const to = (y * width + x) * 4;
      [out[to], out[to + 1], out[to + 2]] = [file[from + 2], file[from + 1], file[from]];
    }
  }
  return out;
}

export const percentile = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
