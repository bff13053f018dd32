// Remora and a VNC server with noVNC side by side; see ../compare-screen.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { Programs, xServer } from '../../node/tests/browser/programs.mjs';
import { round } from './measure.mjs';
import { Scene } from './scene.mjs';
import { slow } from './slow.mjs';
import { PEERS, Peer, Remora } from './systems.mjs';
import { WORKLOADS } from './workloads.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
/** All of it. */
const LIMIT_MS = 360_000;

function settings() {
  const { values } = parseArgs({
    options: {
      slow: { type: 'boolean', default: false },
      peer: { type: 'string', default: PEERS[0] },
      only: { type: 'string', default: Object.keys(WORKLOADS).join(',') },
      json: { type: 'string', default: join(root, 'target/compare-screen.json') },
    },
  });
  const unknown = values.only.split(',').find((name) => !WORKLOADS[name]) ?? (PEERS.includes(values.peer) ? null : values.peer);
  if (unknown) throw new Error(`${unknown}: workloads are ${Object.keys(WORKLOADS).join(', ')}, peers ${PEERS.join(', ')}`);
  return values;
}

// ---- the table -----------------------------------------------------------------------------------

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
const shares = ({ sharer, viewer, relay, x_server: x }) => `CPU: sharer ${sharer} %, viewer ${viewer} %, relay ${relay} %, X ${x} %`;

function described(row) {
  if (row.keys) return `p50 ${row.p50_ms} ms, p95 ${row.p95_ms} ms, max ${row.max_ms} ms (${row.keys} keys)`;
  if (row.age) {
    const { age } = row;
    return `${row.frames_a_second} frames/s, ${row.kbit_a_second} kbit/s, age when drawn p50 ${age.p50_ms} ms, p95 ${age.p95_ms} ms, max ${age.max_ms} ms; `
      + `${age.older_than_500_ms} of ${age.frames} above 500 ms`;
  }
  const sent = `${kilobytes(row.bytes)} (on the wire ${kilobytes(row.wire_bytes)})`;
  if (row.workload === 'idle') return `${sent}, ${row.frames} frames in ${row.seconds} s; ${shares(row.cpu_percent)}`;
  const [run] = row.runs;
  const wrong = Math.max(...row.runs.map(({ wrong_pixels: pixels }) => pixels));
  const whole = run.refreshed_a_second === undefined ? '' : `, everywhere ${run.refreshed_a_second}/s`;
  return `${sent}, ${kilobytes(run.played_bytes)} while it played, then ${wrong === 0 ? 'exact' : `${wrong} pixels wrong`} after ${run.to_rest_ms} ms; ${run.frames_a_second} frames/s${whole}; ${shares(run.cpu_percent)}`;
}

// ---- the run -------------------------------------------------------------------------------------

/** Our children that are browsers. */
function browsers() {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').map(Number);
  return children.filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('chromium'));
}

async function main(options, programs, home) {
  const { display, pid: xServerPid } = await xServer(programs, process.env.COMPARE_DISPLAY);
  const browser = await chromium.launch({
    executablePath: process.env.REMORA_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  const bin = process.env.REMORA_BIN ?? join(root, 'target/release');
  const scene = await Scene.open({ programs, browser, display, home });
  const context = { programs, browser, display, home, bin, scene, xServerPid, browserPids: browsers() };
  const rows = [];
  const add = (more) => {
    for (const row of more) console.log(`${row.workload.padEnd(10)} ${row.who.padEnd(9)} ${described(row)}`);
    rows.push(...more);
  };
  if (options.slow) {
    add(await slow(context));
  } else {
    const remora = await scene.withoutBar(async () => {
      const started = await Remora.start(context);
      await started.enter();
      return started;
    });
    await remora.leave();
    const systems = [remora, await Peer.start({ ...context, name: options.peer })];
    for (const name of options.only.split(',')) add(await WORKLOADS[name](systems, context));
  }
  await browser.close();
  mkdirSync(dirname(options.json), { recursive: true });
  const seconds = round(performance.now() / 1000);
  writeFileSync(options.json, `${JSON.stringify({ v: 1, slow: options.slow, peer: options.slow ? null : options.peer, seconds, rows }, null, 1)}\n`);
  console.log(`${seconds} s, all of it in ${options.json}`);
}

const home = mkdtempSync(join(tmpdir(), 'remora-compare-'));
const programs = new Programs(home);
function end(status, why) {
  if (why) console.error(why);
  programs.end();
  rmSync(home, { recursive: true, force: true });
  process.exit(status);
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => end(1, signal));
for (const fault of ['uncaughtException', 'unhandledRejection']) process.on(fault, (error) => end(1, error));
setTimeout(() => end(1, `not done within ${LIMIT_MS / 1000} s`), LIMIT_MS);
await main(settings(), programs, home);
end(0);
