// The two that are compared. Each shows the same display in a page of the same browser, one at a time: while one is
// measured, the other has no viewer and therefore does nothing.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { event, line } from '../../node/tests/browser/programs.mjs';
import { DatagramCounter, streamSent, udpPorts } from './measure.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const PROBE = readFileSync(join(here, 'probe.js'), 'utf8');
/** The display at its own size, and room for the tools of Remora's page. */
const VIEWPORT = { width: 1920, height: 1240 };
const LIMIT_MS = 20_000;
const RFB_PORT = 5900;
const WEB_PORT = 6080;

async function newPage(browser) {
  const page = await (await browser.newContext({ viewport: VIEWPORT })).newPage();
  page.setDefaultTimeout(LIMIT_MS);
  await page.addInitScript(PROBE);
  return page;
}

/** Relay, helper and sharer, as people start them. */
export class Remora {
  name = 'remora';
  #page;
  #url;
  #counter;
  #painter;

  /** `path` is asked for the port of a path to the relay's port; by default there is none in between. */
  static async start({ programs, browser, bin, home, display, path = async (port) => port }) {
    const remora = new Remora();
    const relay = programs.start(join(bin, 'remora-relay'), ['serve', '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0', '--key', join(home, 'relay.key')]);
    const address = await line(relay, 'relay', (text) => text.match(/\S+\/[a-z2-7]{52}/)?.[0]);
    const [, port, key] = address.match(/:(\d+)(\/.+)$/);
    const helper = programs.start(join(bin, 'remora'), ['invite', '--json', '--page', '--relay', address, '--name', 'Sam Okafor', '--mode', 'control']);
    const helperPage = line(helper, 'helper page', event('page'));
    const code = line(helper, 'code', event('code'));
    const entry = await path(Number(port));
    const { code: symbols } = await code;
    const sharer = programs.start(join(bin, 'remora'), ['join', '--json', '--code-stdin', '--relay', `127.0.0.1:${entry}${key}`, '--name', 'Maria Lopez'], { DISPLAY: display }, ['pipe', 'pipe', 'pipe']);
    const asked = line(sharer, 'question', event('consent_prompt'));
    const started = line(sharer, 'session', event('started'));
    sharer.stdin.write(`${symbols}\n`);
    await asked;
    sharer.stdin.write('a\n');
    await started;
    const [own] = udpPorts(sharer.pid);
    remora.#counter = new DatagramCounter(own, entry);
    remora.processes = { sharer: [sharer.pid], viewer: [helper.pid], between: [relay.pid] };
    remora.#page = await newPage(browser);
    // The worker that paints is looked into as the page is.
    await remora.#page.route('**/viewer/worker.js', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `${PROBE}\n${await response.text()}` });
    });
    remora.#url = (await helperPage).url;
    return remora;
  }

  async enter() {
    const worker = this.#page.waitForEvent('worker');
    await this.#page.goto(this.#url);
    // The token is good for once; the browser knows the page now.
    this.#url = this.#url.replace(/#.*/, '');
    this.#painter = await worker;
    await this.#page.waitForFunction(() => window.__remora?.frame);
    await this.#page.locator('textarea.keys').focus();
    return { page: this.#page, painter: this.#painter };
  }

  async leave() {
    await this.#page.goto('about:blank');
  }

  sent = () => this.#counter.sent();
}

const SERVERS = {
  tigervnc: (display) => ['X0tigervnc', ['-display', display, '-rfbport', String(RFB_PORT), '-localhost', '-SecurityTypes', 'None']],
  x11vnc: (display) => ['x11vnc', ['-display', display, '-rfbport', String(RFB_PORT), '-localhost', '-nopw', '-forever', '-quiet']],
};
export const PEERS = Object.keys(SERVERS);

/** A VNC server that watches a display, Debian's websockify and noVNC; every setting is the one it comes with. */
export class Peer {
  #page;

  static async start({ name, programs, browser, display }) {
    const peer = new Peer();
    peer.name = name;
    const server = programs.start(...SERVERS[name](display));
    const web = programs.start('websockify', ['--web', here, String(WEB_PORT), `127.0.0.1:${RFB_PORT}`]);
    peer.processes = { sharer: [server.pid], viewer: [web.pid], between: [] };
    peer.#page = await newPage(browser);
    peer.ended = Promise.race([once(server, 'exit'), once(web, 'exit')]).then(() => { throw new Error(`${name} has ended: ${server.said}${web.said}`); });
    peer.ended.catch(() => {});
    return peer;
  }

  async enter() {
    await Promise.race([this.ended, this.#open()]);
    return { page: this.#page, painter: this.#page };
  }

  async #open() {
    // It may still be starting.
    for (const until = Date.now() + LIMIT_MS; ;) {
      const connected = await this.#page.goto(`http://127.0.0.1:${WEB_PORT}/peer.html`)
        .then(() => this.#page.waitForFunction(() => document.body?.dataset.state === 'connected' && window.__probe.frames > 0, null, { timeout: 3000 }))
        .catch((error) => { if (Date.now() > until) throw error; });
      if (connected) break;
    }
    await this.#page.evaluate(() => window.rfb.focus());
  }

  async leave() {
    await this.#page.goto('about:blank');
  }

  sent = () => streamSent(RFB_PORT);
}
