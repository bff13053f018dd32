// Keys while a film plays, over a slow path.

import { fork } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ages } from './ages.mjs';
import { clock, pause, round } from './measure.mjs';
import { SCENES } from './player.mjs';
import { Remora } from './systems.mjs';
import { distribution, keys } from './workloads.mjs';

const here = dirname(fileURLToPath(import.meta.url));
/** What the path is like, both ways; it drops what would wait longer than in a home's router. */
const PATH = { rate_kbit: 2000, delay_ms: 40, loss: 0.01, queue_ms: 500 };
const KEYS = 120;
/** Both ends learn what the path carries before anything is counted. */
const WARM_UP_MS = 3000;

function heard(child) {
  return new Promise((resolve) => { child.once('message', resolve); });
}

export async function slow({ scene, ...context }) {
  let path = null;
  const between = async (port) => {
    path = fork(join(here, 'path.mjs'), [port, PATH.rate_kbit, PATH.delay_ms, PATH.loss, PATH.queue_ms].map(String));
    return (await heard(path)).port;
  };
  const { remora, view } = await scene.withoutBar(async () => {
    const started = await Remora.start({ ...context, path: between });
    return { remora: started, view: await started.enter() };
  });
  const { painter } = view;
  await scene.ask('stage', 'typing');
  await scene.ask('stage', 'video');
  const film = scene.ask('play', 'video');
  await pause(WARM_UP_MS);
  await painter.evaluate((marks) => globalThis.__probe.count(marks), SCENES.video.marks);
  const [before, began] = [remora.sent(), clock()];
  const times = await keys(view, scene, KEYS);
  const [ms, sent] = [clock() - began, remora.sent().bytes - before.bytes];
  const { log, kinds } = await painter.evaluate(() => ({ log: globalThis.__probe.log, kinds: globalThis.__probe.kinds }));
  await scene.ask('stop');
  const steps = await film;
  path.send('tell');
  const carried = await heard(path);
  path.disconnect();
  return [
    { workload: 'slow keys', who: 'remora', ...distribution(times), path: { ...PATH, ...carried } },
    { workload: 'slow video', who: 'remora', seconds: round(ms / 1000), frames_a_second: round((log.length / ms) * 1000), kbit_a_second: round((sent * 8) / ms), age: ages(log, steps), kinds },
  ];
}
