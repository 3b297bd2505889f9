/**
 * Rounds the columns of a weight matrix one after another and moves the columns to come by what that did: the inner part of GPTQ (compress/gptq.ts says why).
 * Lanes are weight rows, which do not depend on each other: matrices lie transposed here, a column of weights in a row of memory.
 */
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import type { KernelProgram, Vector, VectorMachine } from './kernel-ir.ts';
import { levelsOf, nearestCode } from './nearest-code.ts';
import { ROW_GROUP } from './packed-format.ts';
import { forEachUnit } from './units.ts';

/** What is taken from codes, so that they fit signed bytes. */
export const STORED_CODE_OFFSET = 128;

/**
 * For columns c < numColumns in order, for every row r:
 *
 *     w = values[c][r] + sum over the columns k < c of errors[k][r] * factor[k][c]
 *     code = clamp(round(w / scale) + zero, 0, levels)            of the column's group and the row
 *     errors[c][r] = -(w - scale * (code - zero)) / factor[c][c]
 *
 * Params: values stride f32 `[numColumns, rows]`; factor factorStride f32 `[numColumns, numColumns]`; scales zeros f32 `[groups, rows]`; groups i32
 * `[numColumns]`, where a column's group begins in both, in bytes; errors errorStride f32 in groups of 16 rows, `[numColumns, 16]` each; codes codeStride
 * i8 `[numColumns, rows]`, less `STORED_CODE_OFFSET`; levels as a number; numUnits unitsPerChunk, a unit being the rows of one vector. Strides in bytes; all rows are
 * there up to a multiple of 16.
 */
export function roundColumnsKernel(machine: VectorMachine): KernelProgram {
  return new RoundColumnsEmitter(machine).emit();
}

class RoundColumnsEmitter {
  readonly #k: KernelBuilder;
  /** Columns whose weights stand in registers at a time. */
  readonly #piece: 8 | 16;
  /** Columns done. */
  readonly #done: ScalarSlot;
  /** Where the unit's rows begin in a column, in bytes of f32. */
  readonly #rows: ScalarSlot;
  /** Of the unit. */
  readonly #errors: ScalarSlot;

  constructor(machine: VectorMachine) {
    const k = new KernelBuilder('roundColumns', machine);
    this.#k = k;
    this.#piece = machine.vectorRegisters >= 32 ? 16 : 8;
    this.#done = k.slot();
    this.#rows = k.slot();
    this.#errors = k.slot();
  }

  emit(): KernelProgram {
    const k = this.#k;
    forEachUnit(k, (unit) => this.#unit(unit));
    return k.finish();
  }

  #unit(unit: ScalarSlot): void {
    const k = this.#k;
    const rows = k.mul(unit.get(), k.lanes);
    this.#rows.set(k.shl(rows, 2));
    const group = k.div(rows, ROW_GROUP);
    const within = k.sub(rows, k.mul(group, ROW_GROUP));
    const errors = k.add(k.arg('errors'), k.mul(group, k.arg('errorStride')));
    this.#errors.set(k.add(errors, k.shl(within, 2)));
    this.#done.set(k.const(0));
    for (const size of [this.#piece, 1]) {
      k.loop(
        k.div(k.sub(k.arg('numColumns'), this.#done.get()), size),
        () => {
          this.#columns(size);
          this.#done.addTo(size);
        },
        { counterInMemory: true },
      );
    }
  }

  #columns(size: number): void {
    const k = this.#k;
    const values = k.add(k.arg('values'), this.#rows.get());
    k.addTo(values, k.mul(this.#done.get(), k.arg('stride')));
    const weights: Vector[] = [];
    for (let i = 0; i < size; i++) {
      weights.push(k.load(k.at(values)));
      if (i + 1 < size) k.addTo(values, k.arg('stride'));
    }
    const factor = k.add(k.arg('factor'), k.shl(this.#done.get(), 2));
    const factorStride = k.arg('factorStride');
    const errors = this.#errors.get();
    k.loop(this.#done.get(), () => {
      const error = k.load(k.at(errors));
      for (const [i, weight] of weights.entries()) {
        k.fmaBroadcastInto(weight, error, k.at(factor, 4 * i));
      }
      k.addTo(errors, 4 * ROW_GROUP);
      k.addTo(factor, factorStride);
    });
    const group = k.add(k.arg('groups'), k.shl(this.#done.get(), 2));
    const codes = k.add(k.arg('codes'), k.shr(this.#rows.get(), 2));
    k.addTo(codes, k.mul(this.#done.get(), k.arg('codeStride')));
    for (const [i, weight] of weights.entries()) {
      const params = k.add(this.#rows.get(), k.loadScalar(32, k.at(group, 4 * i)));
      const scale = k.load(k.at(k.arg('scales'), 0, params));
      const zero = k.load(k.at(k.arg('zeros'), 0, params));
      const code = nearestCode(k, weight, { scale, zero }, levelsOf(k));
      k.store(k.at(codes), this.#storedCode(code), 'i8');
      // rounded - weight, over the factor's diagonal
      const error = k.mulF(k.subF(code, zero, code), scale, code);
      k.subF(error, weight, error);
      k.divF(error, k.broadcast(k.at(factor, 4 * i)), error);
      k.store(k.at(errors), error);
      for (let j = i + 1; j < size; j++) {
        k.fmaBroadcastInto(weights[j]!, error, k.at(factor, 4 * j));
      }
      if (i + 1 === size) continue;
      k.addTo(errors, 4 * ROW_GROUP);
      k.addTo(factor, factorStride);
      k.addTo(codes, k.arg('codeStride'));
    }
  }

  #storedCode(code: Vector): Vector {
    const k = this.#k;
    const stored = k.subF(code, k.splatF32(STORED_CODE_OFFSET));
    return k.unary('i32.fromF32', stored, stored);
  }
}
