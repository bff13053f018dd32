// How old frames are when they are drawn.

import assert from 'node:assert/strict';
import { percentile } from '../../node/tests/browser/programs.mjs';
import { round } from './measure.mjs';

/** The film's numbers repeat after ten seconds. */
const REPEAT_MS = 5000;
/** Two frames of a screen; a number that was misread would be further off. */
const MAX_DOUBT_MS = 34;

/**
 * A frame says when it was captured, on a clock that began with the capture. What that is in the player's time follows from
 * the film: a frame that brings picture n was captured after n was asked for, and before n + 1 was on the screen. Every such
 * frame narrows both bounds. The earlier one is taken, with which frames are the older. (The bounds may cross by as much as
 * it takes to grab pixels: the frame's time is noted after that, and in whole ms.)
 */
export function ages(log, film) {
  const steps = new Map();
  film.forEach(([number, asked], index) => {
    const step = { asked, over: film[index + 1]?.[2] ?? Infinity };
    steps.set(number, [...(steps.get(number) ?? []), step]);
  });
  let [earliest, latest] = [-Infinity, Infinity];
  let [known, brought] = [log[0].numbers[0], 0];
  for (const { at, captured, numbers: [number] } of log) {
    if (number === known) continue;
    known = number;
    const step = steps.get(number)?.findLast(({ asked }) => asked < at);
    if (!step || at - step.asked > REPEAT_MS) continue;
    brought += 1;
    earliest = Math.max(earliest, step.asked - captured - 1);
    latest = Math.min(latest, step.over - captured);
  }
  assert.ok(Math.abs(latest - earliest) < MAX_DOUBT_MS, `the capture's clock is in doubt by ${round(latest - earliest)} ms`);
  const all = log.map(({ at, captured }) => at - (captured + earliest)).sort((a, b) => a - b);
  return {
    frames: all.length, of_film: brought, clock_within_ms: round(Math.abs(latest - earliest)),
    p50_ms: round(percentile(all, 0.5)), p95_ms: round(percentile(all, 0.95)), max_ms: round(all.at(-1)), older_than_500_ms: all.filter((age) => age > 500).length,
  };
}
