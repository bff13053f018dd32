// A browser, pages whose node is driven by the test, and frames.

import assert from 'node:assert/strict';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';
import { after, before } from 'node:test';
import { deflateRawSync, deflateSync, crc32 as zlibCrc32 } from 'node:zlib';
import { chromium } from 'playwright-core';

export const LIMIT_MS = 15_000;

let browser = null;
const nodes = new Set();

/** Opens one browser for a file of tests. */
export function withBrowser() {
  before(async () => {
    browser = await chromium.launch({
      executablePath: process.env.REMORA_CHROMIUM,
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
    });
  });
  after(async () => {
    await browser?.close();
    // A test that failed may have left its node.
    for (const node of nodes) node.close();
  });
}

/** The node behind a page. */
export class Node {
  wishes = [];
  #socket;
  #waiting = [];
  #frames = [];

  static async open(role) {
    const node = new Node();
    node.#socket = net.connect({ port: Number(process.env.REMORA_BRIDGE), host: '127.0.0.1', noDelay: true });
    const lines = readline.createInterface({ input: node.#socket });
    const url = new Promise((resolve) => {
      lines.on('line', (line) => {
        const message = JSON.parse(line);
        if (message.url) resolve(message.url);
        else if (message.frame !== undefined) node.#frames.shift()(message.frame);
        else node.#heard(message.wish);
      });
    });
    node.#write({ role });
    nodes.add(node);
    node.url = await url;
    return node;
  }

  #write(message) {
    this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  #heard(wish) {
    this.wishes.push(wish);
    for (const check of [...this.#waiting]) check();
  }

  event(event, ...rest) {
    this.#write({ event: { event, ...rest[0] } });
  }

  transient(event, fields) {
    this.#write({ transient: { event, ...fields } });
  }

  /** Whether a page took it. */
  frame(bytes) {
    this.#write({ frame: bytes.toString('hex') });
    return new Promise((resolve) => { this.#frames.push(resolve); });
  }

  end() {
    this.#write({ close: true });
  }

  close() {
    this.#socket.destroy();
  }

  /** Until a wish matches, a text or a test; returns it and forgets all up to it. */
  wish(wanted) {
    const fits = typeof wanted === 'string' ? (wish) => wish === wanted : wanted instanceof RegExp ? (wish) => wanted.test(wish) : wanted;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`no wish ${wanted} but:\n${this.wishes.join('\n')}`));
      }, LIMIT_MS);
      const check = () => {
        const at = this.wishes.findIndex(fits);
        if (at < 0) return false;
        clearTimeout(timer);
        this.#waiting = this.#waiting.filter((other) => other !== check);
        const [found] = this.wishes.splice(0, at + 1).slice(-1);
        resolve(found);
        return true;
      };
      if (!check()) this.#waiting.push(check);
    });
  }
}

/** A page, its node, and what must not happen to it. */
export async function openPage(role, { query = '', ...options } = {}) {
  const node = await Node.open(role);
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ['clipboard-read', 'clipboard-write'], ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(LIMIT_MS);
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !/ERR_CONNECTION_REFUSED|WebSocket connection|403/.test(message.text())) problems.push(message.text());
  });
  await page.goto(node.url.replace('/#', `/${query}#`));
  return {
    node, page, context,
    async close() {
      await context.close();
      node.close();
      assert.deepEqual(problems, []);
    },
  };
}

export const PEERS = {
  sam: { full_name: 'Sam Okafor', job_title: 'Service desk', company: 'Contoso', domain: 'contoso.com', verified: false },
  maria: { full_name: 'Maria Lopez', job_title: 'Accountant', company: 'Contoso', domain: 'contoso.com', verified: false },
  layla: { full_name: 'ليلى حداد', job_title: 'محاسبة أولى', company: 'شركة النور', domain: 'alnoor.example', verified: false },
};
export const WORDS = ['copper', 'window', 'antenna'];

/** Tells a node's page how a session came to be active. */
export function startSession(node, { peer = PEERS.maria, mode = 'view', sources } = {}) {
  node.event('connected', { path: 'relayed', relay: 'fra-1', rtt_ms: 31 });
  node.event('trust', { peer, words: WORDS });
  node.event('started', { mode });
  if (sources) node.event('screen', { width: 640, height: 400, sources, source: sources[0].id });
  node.transient('path', { text: 'relayed via fra-1 (31 ms)', rtt_ms: 31, bytes: 4_200_000 });
}

export function picture(name) {
  return path.join(process.env.REMORA_PICTURES, `${name}.png`);
}

// ---- frames ----------------------------------------------------------------------------------

/** As node/picture/src/frame.rs says. */
export function frame({ sequence = 1, after = sequence, key = false, lossless = false, width, height, tiles = [] }) {
  const first = 0x10 | (key ? 1 : 0) | (lossless ? 2 : 0) | (after === sequence ? 0 : 8);
  const numbers = [sequence, 123_456, ...(after === sequence ? [] : [(sequence - after) >>> 0]), ...(key ? [width, height] : [])];
  return Buffer.concat([Buffer.from([first, ...numbers.flatMap(varint)]), ...tiles.map(tile)]);
}

function tile({ x, y, w, h, kind, payload }) {
  return Buffer.concat([Buffer.from([kind, ...[x, y, w, h, payload.length].flatMap(varint)]), payload]);
}

function varint(value) {
  const bytes = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 128);
  }
}

const bgr = ([r, g, b]) => [b, g, r];

export const solid = (place, colour) => ({ ...place, kind: 0, payload: Buffer.from(bgr(colour)) });

/** `indices` row by row. */
export function palette(place, colours, indices, deflated) {
  const bits = colours.length <= 2 ? 1 : colours.length <= 4 ? 2 : colours.length <= 16 ? 4 : 8;
  const stride = Math.ceil((place.w * bits) / 8);
  const packed = Buffer.alloc(stride * place.h);
  indices.forEach((index, at) => {
    const x = at % place.w;
    const y = Math.floor(at / place.w);
    packed[y * stride + Math.floor((x * bits) / 8)] |= index << (8 - bits - ((x * bits) % 8));
  });
  const grey = colours.every(([r, g, b]) => r === g && g === b);
  const head = Buffer.from([colours.length, ...colours.flatMap((colour) => (grey ? colour[0] : bgr(colour)))]);
  return { ...place, kind: (grey ? 7 : 1) + (deflated ? 1 : 0), payload: Buffer.concat([head, deflated ? deflateRawSync(packed, deflated) : packed]) };
}

export const grey = (place, shades) => ({ ...place, kind: 6, payload: deflateRawSync(Buffer.from(shades)) });

function crc(bytes) {
  if (zlibCrc32) return zlibCrc32(bytes);
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return (value ^ 0xffffffff) >>> 0;
}

/** `pixels` as [r, g, b] each. */
export function png(place, pixels) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(8 + data.length + 4);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc(body), 8 + data.length);
    return out;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(place.w, 0);
  header.writeUInt32BE(place.h, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.alloc((3 * place.w + 1) * place.h);
  pixels.forEach((pixel, at) => {
    const row = Math.floor(at / place.w);
    rows.set(pixel, row * (3 * place.w + 1) + 1 + 3 * (at % place.w));
  });
  const payload = Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk('IHDR', header), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))]);
  return { ...place, kind: 3, payload };
}

export function copy(place, from) {
  const payload = Buffer.alloc(4);
  payload.writeUInt16LE(from[0], 0);
  payload.writeUInt16LE(from[1], 2);
  return { ...place, kind: 5, payload };
}

/** What should be on the canvas. */
export class Model {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.pixels = Array.from({ length: width * height }, () => [0, 0, 0]);
  }

  fill({ x, y, w, h }, colourAt) {
    for (let row = 0; row < h; row += 1) {
      for (let column = 0; column < w; column += 1) this.pixels[(y + row) * this.width + x + column] = colourAt(row * w + column, column, row);
    }
  }

  clone() {
    const other = new Model(this.width, this.height);
    other.pixels = [...this.pixels];
    return other;
  }

  at(x, y) {
    return this.pixels[y * this.width + x];
  }

  rgba() {
    return Buffer.from(this.pixels.flatMap((pixel) => [...pixel, 255]));
  }
}

/** The canvas, byte by byte, once `sequence` is on it. */
export async function canvas(page, sequence) {
  await page.waitForFunction((wanted) => window.__remora.frame?.sequence === wanted, sequence);
  const { width, height, data } = await page.evaluate(async () => {
    const image = await window.__remora.snapshot();
    let text = '';
    for (let at = 0; at < image.data.length; at += 32_768) text += String.fromCharCode(...image.data.subarray(at, at + 32_768));
    return { width: image.width, height: image.height, data: btoa(text) };
  });
  return { width, height, data: Buffer.from(data, 'base64') };
}

export function assertSame(seen, model) {
  assert.equal(`${seen.width}x${seen.height}`, `${model.width}x${model.height}`);
  const wanted = model.rgba();
  const at = seen.data.findIndex((byte, index) => byte !== wanted[index]);
  const pixel = Math.floor(at / 4);
  assert.equal(at, -1, `pixel ${pixel % model.width},${Math.floor(pixel / model.width)}: ${[...seen.data.subarray(pixel * 4, pixel * 4 + 4)]}, not ${[...wanted.subarray(pixel * 4, pixel * 4 + 4)]}`);
}
