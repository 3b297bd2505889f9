/**
 * Grids of weight groups: scale and zero point from the range of a group, and rounding to nearest on a grid. What a scheme of codes is, and the plain form of all
 * this, is in compress/group-quantizer.ts. Groups are runs of whole vectors within the rows of a matrix; lanes are neighbouring weights.
 */
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { type Grid, levelsOf, nearestCode } from './nearest-code.ts';
import { forEachUnit } from './units.ts';

/** Of the range search; a range is the whole one less so many hundredths. */
export interface RangeSearchShape {
  readonly steps: number;
  /** Steps without gain after which it ends. */
  readonly patience: number;
  /** Squared errors count by the importance of their column; otherwise errors count by the third power of their magnitude. */
  readonly isWeighted: boolean;
}

export interface FitGroupsShape {
  readonly symmetry: 'asymmetric' | 'symmetric';
  /** Null: the range times `ratio`. */
  readonly search: RangeSearchShape | null;
  readonly smallestRange: number;
  /** Weights count times `factors`. */
  readonly isScaled: boolean;
}

const SMALLEST_F16 = 2 ** -24;

/**
 * Scale (an f16) and zero point of every group, f32 `[rows, numGroups]` each.
 *
 * Params: values stride f32 `[rows, numGroups * group]`; scales zeros; numGroups groupVectors; levels as a number; ratio as the bits of an f32, if nothing is
 * searched; importance, f32 `[columns]`, if a search is weighted; factors f32 `[columns]` if scaled. A unit is a row.
 */
export function fitGroupsKernel(machine: VectorMachine, shape: FitGroupsShape): KernelProgram {
  const k = new KernelBuilder(`fitGroups_${shape.symmetry}`, machine);
  const fit = new GroupFit(k, shape);
  forEachGroup(k, (group) => {
    const { scale, zero } = fit.of(group);
    k.store(k.at(group.scale), scale, 'bits', 1);
    k.store(k.at(group.zero), zero, 'bits', 1);
  });
  return k.finish();
}

/**
 * out = the nearest value of the group's grid; `isChange`: less the weight itself, and both as they are before `factors`.
 *
 * Params: values stride scales zeros numGroups groupVectors levels as above; out outStride; factors and inverses, f32 `[columns]`, for changes. A unit is a row.
 */
export function roundGroupsKernel(
  machine: VectorMachine,
  { isChange }: { readonly isChange: boolean },
): KernelProgram {
  const k = new KernelBuilder(`roundGroups${isChange ? '_change' : ''}`, machine);
  forEachGroup(k, (group) => {
    const grid = { scale: k.broadcast(k.at(group.scale)), zero: k.broadcast(k.at(group.zero)) };
    const levels = levelsOf(k);
    const offset = k.sub(group.values, group.row);
    const out = k.add(k.add(k.arg('out'), k.mul(group.index, k.arg('outStride'))), offset);
    const factors = isChange ? k.add(k.arg('factors'), offset) : null;
    const inverses = isChange ? k.add(k.arg('inverses'), offset) : null;
    forEachVector(k, [group.values, out, ...(isChange ? [factors!, inverses!] : [])], () => {
      const weight = k.load(k.at(group.values));
      const value = factors ? k.mulF(weight, k.load(k.at(factors))) : weight;
      const rounded = k.mulF(stepsOf(k, value, grid, levels), grid.scale);
      if (inverses) {
        k.mulF(rounded, k.load(k.at(inverses)), rounded);
        k.subF(rounded, weight, rounded);
      }
      k.store(k.at(out), rounded);
    });
  });
  return k.finish();
}

/** Pointers to a group; those of vectors may be moved on. */
interface Group {
  /** Of the row. */
  readonly index: Scalar;
  readonly row: Scalar;
  readonly values: Scalar;
  readonly scale: Scalar;
  readonly zero: Scalar;
}

function forEachGroup(k: KernelBuilder, body: (group: Group) => void): void {
  const done = k.slot();
  forEachUnit(k, (index) => {
    done.set(k.const(0));
    k.loop(
      k.arg('numGroups'),
      () => {
        const place = k.mul(index.get(), k.arg('numGroups'));
        k.addTo(place, done.get());
        const row = k.add(k.arg('values'), k.mul(index.get(), k.arg('stride')));
        const bytes = k.mul(k.mul(done.get(), k.arg('groupVectors')), 4 * k.lanes);
        body({
          ...{ index: index.get(), row, values: k.add(row, bytes) },
          scale: k.add(k.arg('scales'), k.shl(place, 2)),
          zero: k.add(k.arg('zeros'), k.shl(place, 2)),
        });
        done.addTo(1);
      },
      { countIsPositive: true, counterInMemory: true },
    );
  });
}

/** The vectors of a group; moves the pointers on. */
function forEachVector(k: KernelBuilder, pointers: readonly Scalar[], body: () => void): void {
  k.loop(
    k.arg('groupVectors'),
    () => {
      body();
      for (const pointer of pointers) k.addTo(pointer, 4 * k.lanes);
    },
    { countIsPositive: true },
  );
}

/** Nearest code less the zero point. */
function stepsOf(k: KernelBuilder, value: Vector, grid: Grid, levels: Vector): Vector {
  const code = nearestCode(k, value, grid, levels);
  return k.subF(code, grid.zero, code);
}

class GroupFit {
  readonly #k: KernelBuilder;
  readonly #shape: FitGroupsShape;
  readonly #halves: number;
  readonly #error: number;

  constructor(k: KernelBuilder, shape: FitGroupsShape) {
    this.#k = k;
    this.#shape = shape;
    this.#halves = k.reserveScratch(2 * k.lanes);
    this.#error = k.reserveScratch(4);
  }

  of(group: Group): Grid {
    const k = this.#k;
    const levels = levelsOf(k);
    const range = this.#rangeOf(group);
    const { search } = this.#shape;
    if (search === null) return this.#grid(range, k.splatScalar(k.arg('ratio')), levels);
    const best = this.#grid(range, k.splatF32(1), levels);
    const leastError = this.#errorOf(group, best, levels);
    const step = k.zero();
    const withoutGain = k.const(0);
    k.loop(search.steps, () => {
      k.if(withoutGain, 'lt', search.patience, () => {
        k.addF(step, k.splatF32(1), step);
        const shrink = k.splatF32(1);
        k.fnmaInto(shrink, step, k.splatF32(0.01));
        const grid = this.#grid(range, shrink, levels);
        const error = this.#errorOf(group, grid, levels);
        k.addTo(withoutGain, 1);
        k.if(error, 'lt', leastError, () => {
          k.setScalar(leastError, error);
          k.move(best.scale, grid.scale);
          k.move(best.zero, grid.zero);
          k.setScalar(withoutGain, 0);
        });
      });
    });
    return best;
  }

  #load(values: Scalar, factors: Scalar | null): Vector {
    const k = this.#k;
    const value = k.load(k.at(values));
    return factors === null ? value : k.mulF(value, k.load(k.at(factors)), value);
  }

  /** For the columns of the group. */
  #columns(name: string, { row, values }: Group): Scalar {
    const k = this.#k;
    return k.add(k.arg(name), k.sub(values, row));
  }

  /** How far the values of a group go above and below 0, in all lanes. */
  #rangeOf(group: Group): { above: Vector; below: Vector } {
    const k = this.#k;
    const above = k.zero();
    const below = k.zero();
    const values = k.copy(group.values);
    const factors = this.#shape.isScaled ? this.#columns('factors', group) : null;
    forEachVector(k, [values, ...(factors ? [factors] : [])], () => {
      const value = this.#load(values, factors);
      k.maxF(above, value, above);
      k.minF(below, value, below);
    });
    k.subF(k.zero(), below, below);
    return { above: k.unary('f32.reduceMax', above), below: k.unary('f32.reduceMax', below) };
  }

  #grid({ above, below }: { above: Vector; below: Vector }, shrink: Vector, levels: Vector): Grid {
    const k = this.#k;
    const smallest = k.splatF32(this.#shape.smallestRange);
    const isSymmetric = this.#shape.symmetry === 'symmetric';
    const range = isSymmetric ? k.maxF(above, below) : k.addF(above, below);
    if (isSymmetric) k.addF(range, range, range);
    k.maxF(k.mulF(range, shrink, range), smallest, range);
    const scale = this.#stored(k.divF(range, levels, range));
    if (isSymmetric) {
      const zero = k.addF(levels, k.splatF32(1));
      return { scale, zero: k.mulF(zero, k.splatF32(0.5), zero) };
    }
    const zero = k.divF(k.mulF(below, shrink), scale);
    return { scale, zero: k.minF(k.unary('f32.round', zero, zero), levels, zero) };
  }

  /** The nearest f16 that is not 0; for positive values. */
  #stored(value: Vector): Vector {
    const k = this.#k;
    const at = k.at(k.scratch, this.#halves);
    k.store(at, value, 'f16');
    return k.maxF(k.load(at, 'f16'), k.splatF32(SMALLEST_F16));
  }

  /** As the bits of an f32, which are in the order of the errors. */
  #errorOf(group: Group, grid: Grid, levels: Vector): Scalar {
    const k = this.#k;
    const { isScaled, search } = this.#shape;
    const values = k.copy(group.values);
    const importance = search?.isWeighted ? this.#columns('importance', group) : null;
    const factors = isScaled ? this.#columns('factors', group) : null;
    const sum = k.zero();
    const moved = [importance, factors].filter((pointer) => pointer !== null);
    forEachVector(k, [values, ...moved], () => {
      const off = this.#load(values, factors);
      k.fnmaInto(off, stepsOf(k, off, grid, levels), grid.scale);
      const factor = importance ? k.load(k.at(importance)) : this.#magnitude(off);
      k.fmaInto(sum, k.mulF(off, off, off), factor);
    });
    const at = k.at(k.scratch, this.#error);
    k.store(at, k.unary('f32.reduceAdd', sum), 'bits', 1);
    return k.loadScalar(32, at);
  }

  #magnitude(value: Vector): Vector {
    const k = this.#k;
    const negative = k.subF(k.zero(), value);
    return k.maxF(negative, value, negative);
  }
}
