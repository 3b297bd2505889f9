/**
 * What a step takes by its number of rows (tokens whose logits are wanted), learned from the steps that ran. Knows nothing of what the rows are.
 *
 * Time is `scale * shape[rows]`. Both follow each measurement: the scale quickly, since a longer context or a busier machine slows down all steps
 * alike; the shape of each row count by itself, so that what was measured long ago keeps its ratio to the rest.
 */

const SCALE_RATE = 0.1;
const SHAPE_RATE = 0.15;
/** A measurement further off than this factor counts as this far off: steps are held up by other work on the machine now and then. */
const MAX_RATIO = 2;
/** Rows beyond those that were measured: this share of the known time each, low enough to be tried. */
const FIRST_ROW_SHARE = 0.04;

export class StepCost {
  readonly maxRows: number;
  #scale = 1;
  /** By row count, f64 [maxRows + 1]; 0 where nothing was measured. */
  readonly #shape: Float64Array;
  /** The shape with its gaps filled. */
  readonly #filled: Float64Array;
  #isStale = true;

  constructor(maxRows: number) {
    this.maxRows = maxRows;
    this.#shape = new Float64Array(maxRows + 1);
    this.#filled = new Float64Array(maxRows + 1);
  }

  /** Learns from a step of `rows` rows and nothing else. */
  observe(rows: number, stepMs: number): void {
    if (rows < 1 || rows > this.maxRows || !(stepMs > 0)) return;
    const before = this.#shape[rows]!;
    if (before === 0) {
      this.#shape[rows] = stepMs / this.#scale;
    } else {
      const ratio = stepMs / (this.#scale * before);
      const change = Math.min(Math.max(ratio, 1 / MAX_RATIO), MAX_RATIO) - 1;
      this.#scale *= 1 + SCALE_RATE * change;
      this.#shape[rows] = before * (1 + SHAPE_RATE * change);
    }
    this.#isStale = true;
  }

  /** Milliseconds that a step of `rows` rows is expected to take; 0 while nothing is known. */
  ms(rows: number): number {
    if (this.#isStale) this.#fill();
    return this.#scale * this.#filled[Math.min(rows, this.maxRows)]!;
  }

  /** Between measured row counts: on the line between them. Below the first: like it. Beyond the last: a little more for each row. */
  #fill(): void {
    const shape = this.#shape;
    const filled = this.#filled;
    let known = 0;
    for (let rows = 1; rows <= this.maxRows; rows++) {
      if (shape[rows] === 0) continue;
      const from = known === 0 ? shape[rows]! : shape[known]!;
      const span = rows - known;
      for (let r = known + 1; r <= rows; r++) {
        filled[r] = from + ((shape[rows]! - from) * (r - known)) / span;
      }
      known = rows;
    }
    if (known > 0) {
      const step = FIRST_ROW_SHARE * shape[known]!;
      for (let r = known + 1; r <= this.maxRows; r++)
        filled[r] = shape[known]! + step * (r - known);
    }
    this.#isStale = false;
  }
}
