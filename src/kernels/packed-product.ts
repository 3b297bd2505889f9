/**
 * Product of two packed f32 matrices: what sums of outer products of many vectors need, since a vector's elements lie side by side in both factors and
 * nothing has to be transposed. Element (n, k) of a packed matrix stands at (n div 16 * capacity + k) * 16 + n mod 16, as in packed-format.ts.
 *
 * Order of operations per output: inputs ascending, then the residual, as in matmul.ts.
 */
import { KernelBuilder, type ScalarSlot } from './builder.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { ROW_GROUP } from './packed-format.ts';
import { forEachUnit } from './units.ts';

/** Inputs that are summed before sums go back to memory: the right factor of a unit stays in a 32 KiB L1 beside the left one. */
export const PACKED_BLOCK_INPUTS = 128;

const INPUT_BYTES = 4 * ROW_GROUP;

/** Columns of the output that are a unit of work. */
export function packedProductUnit(machine: VectorMachine): 16 | 32 {
  return machine.lanes === 16 ? 32 : 16;
}

/**
 * out[m][n] = sum over k of a(m, k) * b(n, k) + residual[m][n].
 *
 * Params: a, aGroupStride, b, bGroupStride, numUnits, unitsPerChunk, inputs, blockInputs (at most `PACKED_BLOCK_INPUTS`), numGroups (of 16 rows of `a`),
 * groupsPerUnit, out, outStride, residual, residualStride; strides in bytes. Chunk c does the units [c * unitsPerChunk, (c + 1) * unitsPerChunk);
 * unit u takes the first min(numGroups, (u + 1) * groupsPerUnit) groups of `a`, which leaves out what lies below a diagonal. `out` may not overlap `residual`, unless it is the same and
 * all inputs are one block.
 */
export function packedProductKernel(machine: VectorMachine): KernelProgram {
  return new PackedProductEmitter(machine).emit();
}

class PackedProductEmitter {
  readonly #k: KernelBuilder;
  readonly #unitColumns: 16 | 32;
  /** Rows of a register tile. */
  readonly #tileRows: 4 | 8;
  readonly #a: ScalarSlot;
  readonly #b: ScalarSlot;
  readonly #out: ScalarSlot;
  readonly #residual: ScalarSlot;
  /** Inputs summed before this block, and of this block. */
  readonly #done: ScalarSlot;
  readonly #blockInputs: ScalarSlot;

  constructor(machine: VectorMachine) {
    const k = new KernelBuilder('packedProduct', machine);
    this.#k = k;
    this.#unitColumns = packedProductUnit(machine);
    this.#tileRows = machine.vectorRegisters >= 32 ? 8 : 4;
    this.#a = k.slot();
    this.#b = k.slot();
    this.#out = k.slot();
    this.#residual = k.slot();
    this.#done = k.slot();
    this.#blockInputs = k.slot();
  }

  emit(): KernelProgram {
    const k = this.#k;
    forEachUnit(k, (unit) => this.#unit(unit));
    return k.finish();
  }

  #unit(unit: ScalarSlot): void {
    const k = this.#k;
    const unitStride = k.mul(k.arg('bGroupStride'), this.#unitColumns / ROW_GROUP);
    this.#b.set(k.add(k.arg('b'), k.mul(unit.get(), unitStride)));
    const aBlock = k.slot();
    aBlock.set(k.arg('a'));
    this.#done.set(k.const(0));
    const size = k.arg('blockInputs');
    const numBlocks = k.div(k.sub(k.add(k.arg('inputs'), size), 1), size);
    k.loop(
      numBlocks,
      () => {
        const inputs = k.min(k.sub(k.arg('inputs'), this.#done.get()), k.arg('blockInputs'));
        this.#blockInputs.set(inputs);
        this.#a.set(aBlock.get());
        this.#rowGroups(unit);
        const bytes = k.mul(this.#blockInputs.get(), INPUT_BYTES);
        aBlock.addTo(bytes);
        this.#b.addTo(bytes);
        this.#done.addTo(this.#blockInputs.get());
      },
      { countIsPositive: true, counterInMemory: true },
    );
  }

  #rowGroups(unit: ScalarSlot): void {
    const k = this.#k;
    const column = k.mul(unit.get(), 4 * this.#unitColumns);
    this.#out.set(k.add(k.arg('out'), column));
    this.#residual.set(k.add(k.arg('residual'), column));
    const reached = k.mul(k.add(unit.get(), 1), k.arg('groupsPerUnit'));
    k.loop(
      k.min(k.arg('numGroups'), reached),
      () => {
        for (let row = 0; row < ROW_GROUP; row += this.#tileRows) this.#tile(row);
        this.#a.addTo(k.arg('aGroupStride'));
      },
      { countIsPositive: true, counterInMemory: true },
    );
  }

  /** Some rows of a group, from `firstRow`, by all columns of the unit. */
  #tile(firstRow: number): void {
    const k = this.#k;
    const sums = Array.from({ length: this.#tileRows }, () =>
      Array.from({ length: this.#unitColumns / k.lanes }, () => k.vector()),
    );
    k.if(
      this.#done.get(),
      'eq',
      0,
      () => {
        for (const sum of sums.flat()) k.setZero(sum);
      },
      () => {
        this.#eachRow(sums, this.#out.get(), 'outStride', (sum, at) =>
          k.load(at, 'bits', k.lanes, sum),
        );
      },
    );
    this.#multiply(sums, firstRow);
    const left = k.sub(k.sub(k.arg('inputs'), this.#done.get()), this.#blockInputs.get());
    k.if(left, 'eq', 0, () => {
      this.#eachRow(sums, this.#residual.get(), 'residualStride', (sum, at) =>
        k.addF(sum, k.load(at), sum),
      );
    });
    this.#residual.addTo(k.mul(k.arg('residualStride'), this.#tileRows));
    this.#eachRow(sums, this.#out.get(), 'outStride', (sum, at) => k.store(at, sum));
    this.#out.addTo(k.mul(k.arg('outStride'), this.#tileRows));
  }

  #multiply(sums: readonly (readonly Vector[])[], firstRow: number): void {
    const k = this.#k;
    const a = this.#a.get();
    const b = this.#b.get();
    const next = this.#unitColumns === 32 ? k.add(b, k.arg('bGroupStride')) : b;
    const unroll = 4;
    const inputs = (n: number): void => {
      for (let i = 0; i < n; i++) {
        const right = sums[0]!.map((_, v) => {
          const lane = v * k.lanes;
          const base = lane < ROW_GROUP ? b : next;
          return k.load(k.at(base, i * INPUT_BYTES + 4 * (lane % ROW_GROUP)));
        });
        for (const [row, rowSums] of sums.entries()) {
          const left = k.broadcast(k.at(a, i * INPUT_BYTES + 4 * (firstRow + row)));
          for (const [v, sum] of rowSums.entries()) k.fmaInto(sum, right[v]!, left);
        }
      }
      for (const each of new Set([a, b, next])) k.addTo(each, n * INPUT_BYTES);
    };
    k.loop(k.div(this.#blockInputs.get(), unroll), () => inputs(unroll));
    k.loop(k.and(this.#blockInputs.get(), unroll - 1), () => inputs(1));
  }

  #eachRow(
    sums: readonly (readonly Vector[])[],
    start: Scalar,
    strideName: string,
    body: (sum: Vector, at: ReturnType<KernelBuilder['at']>) => void,
  ): void {
    const k = this.#k;
    const at = k.copy(start);
    const stride = k.arg(strideName);
    for (const [row, rowSums] of sums.entries()) {
      for (const [v, sum] of rowSums.entries()) body(sum, k.at(at, 4 * k.lanes * v));
      if (row + 1 < sums.length) k.addTo(at, stride);
    }
  }
}
