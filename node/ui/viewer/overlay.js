// What lies over the picture: the laser pointer, pen strokes until they expire, the other side's mouse pointer.

/** How long a stroke stays, as on the sharer's screen. */
const STROKE_MS = 6000;
const FADE_MS = 600;
/** In pixels of the source. */
const PEN_WIDTH = 4;
/** Our own move comes back as the sharer's a moment later. */
const OWN_MOVE_MS = 400;

export class Overlay {
  element = document.createElement('div');
  #canvas = document.createElement('canvas');
  #dot = document.createElement('div');
  #pointer = document.createElement('img');
  #send;
  #position;
  #strokes = [];
  #stroke = null;
  #tool = 'none';
  #colour = '#e5484d';
  #pending = null;
  #frame = 0;
  #moved = -Infinity;
  #hot = [0, 0];
  #size = { width: 1, height: 1 };

  constructor(surface, send, position) {
    this.#send = send;
    this.#position = position;
    this.element.className = 'overlay';
    this.#canvas.className = 'strokes';
    this.#dot.className = 'laser';
    this.#dot.hidden = true;
    this.#pointer.className = 'pointer';
    this.#pointer.alt = '';
    this.#pointer.hidden = true;
    this.element.append(this.#canvas, this.#dot, this.#pointer);
    surface.addEventListener('pointermove', (event) => this.#move(event));
    surface.addEventListener('pointerdown', (event) => this.#down(event, surface));
    surface.addEventListener('pointerup', () => this.#up());
    surface.addEventListener('pointercancel', () => this.#up());
    surface.addEventListener('pointerleave', () => this.#hide());
  }

  /** `none`, `laser` or `pen`. */
  set tool(tool) {
    if (this.#tool === 'laser' && tool !== 'laser') this.#hide();
    this.#up();
    this.#tool = tool;
  }

  get tool() {
    return this.#tool;
  }

  set colour(colour) {
    this.#colour = colour;
    this.#dot.style.setProperty('--laser', colour);
  }

  /** Of the source, in its pixels. */
  resize(width, height) {
    if (this.#size.width === width && this.#size.height === height) return;
    this.#size = { width, height };
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#schedule();
  }

  clear() {
    this.#strokes = [];
    this.#stroke = null;
    this.#schedule();
    this.#send({ type: 'pen_clear' });
  }

  // ---- the other side's pointer --------------------------------------------------------------

  shape(cursor) {
    this.#hot = cursor?.hot ?? [0, 0];
    this.#pointer.hidden = !cursor?.shape;
    if (cursor?.shape) this.#pointer.src = cursor.shape;
  }

  /** In pixels of the source. */
  pointerAt(x, y, inside) {
    const own = inside && performance.now() - this.#moved < OWN_MOVE_MS;
    this.#pointer.classList.toggle('own', own);
    const { width, height } = this.#size;
    const scale = this.element.clientWidth / width || 1;
    this.#pointer.style.left = `${(x / width) * 100}%`;
    this.#pointer.style.top = `${(y / height) * 100}%`;
    this.#pointer.style.transform = `scale(${scale}) translate(${-this.#hot[0]}px, ${-this.#hot[1]}px)`;
  }

  ownMove() {
    this.#moved = performance.now();
    this.#pointer.classList.add('own');
  }

  // ---- drawing -------------------------------------------------------------------------------

  #move(event) {
    if (this.#tool === 'none' || !event.isPrimary) return;
    const { x, y } = this.#position(event);
    if (this.#tool === 'laser') {
      this.#dot.hidden = false;
      this.#dot.style.left = `${(x / 65535) * 100}%`;
      this.#dot.style.top = `${(y / 65535) * 100}%`;
      this.#pending = { x, y };
      this.#schedule();
    } else if (this.#stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const point of events.length > 0 ? events : [event]) {
        const at = this.#position(point);
        this.#stroke.points.push([at.x, at.y]);
      }
      this.#schedule();
    }
  }

  #down(event, surface) {
    if (this.#tool !== 'pen' || !event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    surface.setPointerCapture(event.pointerId);
    const { x, y } = this.#position(event);
    this.#stroke = { points: [[x, y]], sent: 0, colour: this.#colour, ended: Infinity };
    this.#strokes.push(this.#stroke);
    this.#schedule();
  }

  #up() {
    if (!this.#stroke) return;
    this.#flush(this.#stroke);
    this.#stroke.ended = performance.now();
    this.#stroke = null;
    this.#schedule();
  }

  #hide() {
    if (this.#dot.hidden) return;
    this.#dot.hidden = true;
    this.#pending = null;
    this.#send({ type: 'pointer', x: 0, y: 0, colour: this.#colour, visible: false });
  }

  /** Once a picture: more would not be seen. */
  #schedule() {
    this.#frame ||= requestAnimationFrame(() => this.#tick());
  }

  #tick() {
    this.#frame = 0;
    if (this.#pending) this.#send({ type: 'pointer', ...this.#pending, colour: this.#colour, visible: true });
    this.#pending = null;
    if (this.#stroke) this.#flush(this.#stroke);
    const now = performance.now();
    this.#strokes = this.#strokes.filter(({ ended }) => now - ended < STROKE_MS);
    this.#paint(now);
    if (this.#strokes.length === 0) return;
    const fading = this.#strokes.some(({ ended }) => now - ended > STROKE_MS - FADE_MS);
    if (fading) this.#schedule();
    else setTimeout(() => this.#schedule(), FADE_MS);
  }

  #flush(stroke) {
    const from = Math.max(0, stroke.sent - 1);
    if (stroke.points.length === stroke.sent) return;
    for (let at = from; at < stroke.points.length; at += 1000) {
      const points = stroke.points.slice(at, at + 1001);
      this.#send({ type: 'pen', points, colour: stroke.colour, width: PEN_WIDTH });
    }
    stroke.sent = stroke.points.length;
  }

  #paint(now) {
    const { width, height } = this.#size;
    const context = this.#canvas.getContext('2d');
    context.clearRect(0, 0, width, height);
    context.lineCap = 'round';
    context.lineJoin = 'round';
    context.lineWidth = PEN_WIDTH;
    for (const { points, colour, ended } of this.#strokes) {
      context.globalAlpha = Math.max(0, Math.min(1, (STROKE_MS - (now - ended)) / FADE_MS)) || (ended === Infinity ? 1 : 0);
      context.strokeStyle = colour;
      context.beginPath();
      for (const [x, y] of points) context.lineTo((x / 65535) * width, (y / 65535) * height);
      if (points.length === 1) context.lineTo((points[0][0] / 65535) * width + 0.1, (points[0][1] / 65535) * height);
      context.stroke();
    }
  }
}
