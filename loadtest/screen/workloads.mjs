// What is measured, for each system in turns: while one has its turn, the other has no viewer.

import assert from 'node:assert/strict';
import { percentile } from '../../node/tests/browser/programs.mjs';
import { clock, pause, processorTime, round } from './measure.mjs';
import { SCENES } from './player.mjs';

/** 200 keys each. */
const BLOCKS = 5;
const BLOCK_KEYS = 40;
const KEY_LIMIT_MS = 5000;
const IDLE_MS = 10_000;
/** Silence after which nothing more is to come: whoever refines a rough picture begins well before. */
const QUIET_MS = 1000;
/** The peer takes long to refine a photograph, and is not waited for longer. */
const QUIET_LIMIT_MS = 20_000;
/** What keeps a connection alive within a tenth of a second is no picture. */
const ALIVE_BYTES = 512;
/** As node/picture/src/frame.rs numbers them. */
const KINDS = ['solid', 'palette', 'palette, deflated', 'PNG', 'JPEG', 'copy', 'grey', 'palette of greys', 'palette of greys, deflated'];

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Until nothing has been sent for a while: when something last was, and whether it came to rest. */
async function quiet(system) {
  const began = clock();
  let { bytes: last } = system.sent();
  let since = began;
  while (clock() - since < QUIET_MS) {
    if (clock() - began > QUIET_LIMIT_MS) return { since, rests: false };
    await pause(100);
    const { bytes } = system.sent();
    if (bytes - last > ALIVE_BYTES) since = clock();
    last = bytes;
  }
  return { since, rests: true };
}

/** Presses keys one after the other into the cleared xterm; how long each takes to be seen, in ms. */
export async function keys({ page, painter }, scene, count) {
  const times = [];
  for (let key = 0; key < count; key += 1) {
    await painter.evaluate((cell) => globalThis.__probe.arm(cell), scene.cell(key));
    const changed = painter.evaluate((limit) => globalThis.__probe.changed(limit), KEY_LIMIT_MS);
    await page.keyboard.press('x');
    const at = await changed;
    assert.ok(at !== null, `key ${key} was not seen within ${KEY_LIMIT_MS} ms`);
    times.push(at - await page.evaluate(() => globalThis.__pressed));
    // Not in step with anybody's timer.
    await pause(25 + ((key * 37) % 50));
  }
  return times;
}

export function distribution(times) {
  const sorted = [...times].sort((a, b) => a - b);
  return {
    keys: times.length, p50_ms: round(percentile(sorted, 0.5)), p95_ms: round(percentile(sorted, 0.95)), max_ms: round(sorted.at(-1)),
    times_ms: times.map(round),
  };
}

async function latency(systems, { scene }) {
  const times = systems.map(() => []);
  for (let block = 0; block < BLOCKS; block += 1) {
    for (const [index, system] of systems.entries()) {
      await scene.ask('stage', 'typing');
      const view = await system.enter();
      await quiet(system);
      times[index].push(...await keys(view, scene, BLOCK_KEYS));
      await system.leave();
    }
  }
  return systems.map(({ name }, index) => ({ workload: 'latency', who: name, ...distribution(times[index]) }));
}

/** Counts what a system sends and what time everybody takes, from now on. */
function meter({ processes, sent }, { browserPids, xServerPid }) {
  const roots = { sharer: processes.sharer, viewer: [...processes.viewer, ...browserPids], relay: processes.between, x_server: [xServerPid] };
  const spent = () => Object.entries(roots).map(([name, pids]) => [name, processorTime(pids)]);
  const [before, cpu, began] = [sent(), spent(), clock()];
  return {
    sent() {
      const now = sent();
      return Object.fromEntries(Object.keys(now).map((name) => [name, now[name] - before[name]]));
    },
    percent() {
      const ms = clock() - began;
      return Object.fromEntries(spent().map(([name, time], index) => [name, round(((time - cpu[index][1]) / ms) * 100)]));
    },
  };
}

/** What one workload costs one system, from rest to rest. */
async function once(system, name, context) {
  const { scene } = context;
  await scene.ask('stage', name);
  const { painter } = await system.enter();
  const before = await quiet(system);
  await painter.evaluate((marks) => globalThis.__probe.count(marks), SCENES[name].marks ?? []);
  const [costs, began] = [meter(system, context), clock()];
  await scene.ask('play', name);
  const [ms, cpu, played] = [clock() - began, costs.percent(), costs.sent()];
  const { frames, fresh } = await painter.evaluate(() => ({ frames: globalThis.__probe.frames, fresh: globalThis.__probe.fresh }));
  const after = await quiet(system);
  const run = {
    seconds: round(ms / 1000), ...costs.sent(), played_bytes: played.bytes, to_rest_ms: Math.max(0, Math.round(after.since - began - ms)),
    rested: before.rests && after.rests, wrong_pixels: await scene.wrongPixels(painter), frames, frames_a_second: round((frames / ms) * 1000),
    // Where it is seldomest.
    ...(fresh.length > 0 && { refreshed_a_second: round((Math.min(...fresh) / ms) * 1000) }),
    cpu_percent: cpu,
    kinds: Object.fromEntries(Object.entries(await painter.evaluate(() => globalThis.__probe.kinds)).map(([kind, sums]) => [KINDS[kind] ?? kind, sums])),
  };
  await system.leave();
  return run;
}

async function rounds(count, name, systems, context) {
  const runs = systems.map(() => []);
  for (let number = 0; number < count; number += 1) {
    for (const [index, system] of systems.entries()) runs[index].push(await once(system, name, context));
  }
  const average = (index, field) => Math.round(mean(runs[index].map((run) => run[field])));
  return systems.map(({ name: who }, index) => ({ workload: name, who, bytes: average(index, 'bytes'), wire_bytes: average(index, 'wire_bytes'), runs: runs[index] }));
}

async function idle(systems, context) {
  await context.scene.ask('stage', 'typing');
  const rows = [];
  for (const system of systems) {
    const { painter } = await system.enter();
    await quiet(system);
    await painter.evaluate(() => globalThis.__probe.count([]));
    const costs = meter(system, context);
    await pause(IDLE_MS);
    const frames = await painter.evaluate(() => globalThis.__probe.frames);
    rows.push({ workload: 'idle', who: system.name, seconds: IDLE_MS / 1000, frames, ...costs.sent(), cpu_percent: costs.percent() });
    await system.leave();
  }
  return rows;
}

/** By name; each is given the systems and the context, and gives a row for each system. */
export const WORKLOADS = {
  latency,
  typing: (...args) => rounds(2, 'typing', ...args),
  scrolling: (...args) => rounds(2, 'scrolling', ...args),
  dragging: (...args) => rounds(1, 'dragging', ...args),
  panning: (...args) => rounds(1, 'panning', ...args),
  animation: (...args) => rounds(1, 'animation', ...args),
  idle,
};
