/**
 * Element by element kernels: sums, products, scaling, soft caps, activations, and the gated activation of feed-forward layers.
 *
 * All cut their work the same way: a chunk is rowsPerChunk rows of one column segment (rows.ts `forEachRowSegment`), so that one long row can be shared by
 * threads as well as many short ones. Scratch: one segment, for q8 output. Params always: numRows rowsPerChunk, and an address and a stride per matrix.
 */
import type { ActivationKind } from '../graph/ir.ts';
import { KernelBuilder } from './builder.ts';
import type { KernelProgram, Scalar, Vector, VectorMachine } from './kernel-ir.ts';
import { activation, tanh } from './math.ts';
import { loadBlock, storeQ8Block } from './quantize.ts';
import {
  columnsOfSegment,
  forEachRowSegment,
  type RowElement,
  rowStream,
  type SegmentShape,
} from './rows.ts';

interface ElementwiseKernel {
  readonly name: string;
  /** Params of the inputs, in the order in which `compute` takes their values. */
  readonly inputs: readonly string[];
  readonly output: RowElement;
  compute(k: KernelBuilder, ...values: Vector[]): Vector;
}

function mapKernel(
  machine: VectorMachine,
  shape: SegmentShape,
  { name, inputs, output, compute }: ElementwiseKernel,
): KernelProgram {
  const k = new KernelBuilder(`${name}_${shape.width}`, machine);
  const streams = [
    ...inputs.map((input) => ({ ...rowStream(input), element: 'f32' as const })),
    { ...rowStream('out'), element: output },
  ];
  const isQuantized = output === 'q8';
  const results = isQuantized ? k.reserveScratch(4 * columnsOfSegment(shape)) : 0;
  forEachRowSegment(k, name, shape, streams, (rows, visitBlocks) => {
    // Quantizing waits for the largest of a block. In a pass of its own that wait overlaps with other blocks; one pass took 1.1x as long.
    const computed = isQuantized ? k.pointer(k.at(k.scratch, results)) : rows.at(-1)!;
    const sources = rows.slice(0, inputs.length);
    const elements = rows.map((): RowElement => 'f32');
    visitBlocks([...sources, computed], elements, (blocks, counts) => {
      counts.forEach((count, i) => {
        if (count === 0) return;
        const at = (block: Scalar) => k.at(block, 4 * i * k.lanes);
        const operands = sources.map((_, j) => k.load(at(blocks[j]!), 'bits', count));
        k.store(at(blocks.at(-1)!), compute(k, ...operands), 'bits', count);
      });
    });
    if (!isQuantized) return;
    visitBlocks([computed, rows.at(-1)!], ['f32', 'q8'], ([values, out], counts) => {
      storeQ8Block(k, out!, loadBlock(k, values!, counts));
    });
  });
  return k.finish();
}

/**
 * out = activation(gate) * up, f32 or q8; gate and up f32 `[numRows, width]`.
 *
 * Params: gate gateStride up upStride out outStride numRows rowsPerChunk.
 * GLU variants: Shazeer 2020, arXiv:2002.05202.
 */
export function gatedActivationKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly kind: ActivationKind; readonly output: RowElement },
): KernelProgram {
  return mapKernel(machine, shape, {
    name: `gatedActivation_${shape.kind}_${shape.output}`,
    inputs: ['gate', 'up'],
    output: shape.output,
    compute: (k, gate, up) => k.mulF(activation(k, shape.kind, gate!), up!),
  });
}

/** out = activation(x). Params: x xStride out outStride numRows rowsPerChunk. */
export function activationKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly kind: ActivationKind },
): KernelProgram {
  return mapKernel(machine, shape, {
    name: `activation_${shape.kind}`,
    inputs: ['x'],
    output: 'f32',
    compute: (k, x) => activation(k, shape.kind, x!),
  });
}

/** out = x + y or x * y. Params: x xStride y yStride out outStride numRows rowsPerChunk. */
export function elementwiseKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly op: 'add' | 'mul' },
): KernelProgram {
  return mapKernel(machine, shape, {
    name: shape.op,
    inputs: ['x', 'y'],
    output: 'f32',
    compute: (k, x, y) => (shape.op === 'add' ? k.addF(x!, y!) : k.mulF(x!, y!)),
  });
}

/** out = x * factor. Params: x xStride out outStride numRows rowsPerChunk. */
export function scaleKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly factor: number },
): KernelProgram {
  return mapKernel(machine, shape, {
    name: 'scale',
    inputs: ['x'],
    output: 'f32',
    compute: (k, x) => k.mulF(x!, k.splatF32(shape.factor)),
  });
}

/** out = cap * tanh(x / cap). Params: x xStride out outStride numRows rowsPerChunk. */
export function softcapKernel(
  machine: VectorMachine,
  shape: SegmentShape & { readonly cap: number },
): KernelProgram {
  return mapKernel(machine, shape, {
    name: 'softcap',
    inputs: ['x'],
    output: 'f32',
    compute: (k, x) =>
      k.mulF(tanh(k, k.mulF(x!, k.splatF32(1 / shape.cap))), k.splatF32(shape.cap)),
  });
}
