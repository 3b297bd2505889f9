/**
 * Act-order from files to logits: the linears of a tiny model are rounded to nearest in groups of any inputs, and written as GPTQ and as compressed-tensors with
 * these groups, and as the floats that they stand for. Linears of one input share their groups in the first layer only, so that both merged and single ones are there.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { F32Weights } from '../src/compress/f32-weights.ts';
import { roundPlainly } from '../src/compress/testing/round-plainly.ts';
import { lowerGraph, type PassName } from '../src/graph/lower-graph.ts';
import { printGraph } from '../src/graph/print.ts';
import { verifyGraph } from '../src/graph/verify.ts';
import { GgufView } from '../src/models/gguf-view.ts';
import { loadModelDescription } from '../src/models/load-model.ts';
import { stepGraphOf } from '../src/models/step-graph.ts';
import { lowerModel } from '../src/runtime/compile-model.ts';
import { ReferenceRunner } from '../src/targets/reference/reference-runner.ts';
import { X64_ISAS } from '../src/targets/x64/isa.ts';
import {
  dequantizeIndexed,
  f16BytesOf,
  packCompressedTensors,
  packGptq,
} from '../src/weights/hf-packed.ts';
import { writeSafetensors } from '../src/weights/safetensors-writer.ts';
import type { TensorToWrite } from '../src/weights/tensor-data.ts';
import { openWeights } from '../src/weights/weight-source.ts';
import { nativeIsas, nativeRunner, sameLimits, skipOf } from './native-models.ts';
import { oneAnswerSuite } from './one-answer-suite.ts';
import { assertSameBits } from './same-bits.ts';
import { maxAbsDifference, relativeDifference, StepDriver } from './step-driver.ts';

const SOURCE = path.join(import.meta.dirname, 'fixtures', 'tiny', 'llama-bf16');
const LIMITS = { maxTokens: 32, maxSeqs: 2, maxLogitRows: 32, maxModelLen: 64, numBlocks: 8 };
const TOKENS = Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 300);
const GROUP = 32;
const LINEAR = /\.layers\.(\d)\..*\.(\w+)_proj\.weight$/;
const EMBEDDING = 'model.embed_tokens.weight';

const folder = mkdtempSync(path.join(tmpdir(), 'hasten-act-order-'));
after(() => rmSync(folder, { recursive: true }));
const folderOf = (name: string): string => path.join(folder, name);

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array | Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
const i32 = (name: string, shape: readonly number[], values: Int32Array): TensorToWrite => ({
  ...{ name, dtype: 'i32', shape, data: bytesOf(values) },
});
const f16 = (name: string, shape: readonly number[], values: Float32Array): TensorToWrite => ({
  ...{ name, dtype: 'f16', shape, data: f16BytesOf(values) },
});

/** Which input stands at each place when groups are runs. */
function orderOf(name: string, columns: number): Int32Array {
  const [, layer, kind] = LINEAR.exec(name) ?? [name, '9', 'embedding'];
  const shared = layer === '0' && /^[qkv]|gate|up$/.test(kind!) ? 'shared' : kind!;
  const seed = [...`${layer}${shared}`].reduce((sum, c) => 31 * sum + c.charCodeAt(0), 7);
  const keys = Array.from({ length: columns }, (_, i) => Math.sin(seed + i * (12.9898 + i)) * 1e4);
  const fraction = (i: number): number => keys[i]! - Math.floor(keys[i]!);
  return Int32Array.from(keys.keys()).sort((a, b) => fraction(a) - fraction(b));
}

/** A matrix in three ways. */
function rounded(name: string, values: Float32Array, columns: number) {
  const order = orderOf(name, columns);
  const place = (i: number): number => i - (i % columns) + order[i % columns]!;
  const matrix = roundPlainly(
    values.map((_, i) => values[place(i)]!),
    values.length / columns,
    columns,
    { bits: 4, groupSize: GROUP, symmetry: 'symmetric', searchesRange: false },
  );
  const codes = new Uint8Array(values.length);
  matrix.codes.forEach((code, i) => {
    codes[place(i)] = code;
  });
  const groupOf = new Int32Array(columns);
  order.forEach((column, i) => {
    groupOf[column] = Math.floor(i / GROUP);
  });
  return { ...matrix, codes, groupOf };
}

function asGptq(prefix: string, matrix: ReturnType<typeof rounded>): TensorToWrite[] {
  const { rows, columns, groupOf } = matrix;
  const { qweight, qzeros, scales } = packGptq(matrix, 1);
  return [
    i32(`${prefix}qweight`, [qweight.length / rows, rows], qweight),
    i32(`${prefix}qzeros`, [columns / GROUP, (qzeros.length * GROUP) / columns], qzeros),
    f16(`${prefix}scales`, [columns / GROUP, rows], scales),
    i32(`${prefix}g_idx`, [columns], groupOf),
  ];
}

function asCompressed(prefix: string, matrix: ReturnType<typeof rounded>): TensorToWrite[] {
  const { rows, columns, groupOf } = matrix;
  const { packed, scales } = packCompressedTensors(matrix);
  return [
    i32(`${prefix}weight_packed`, [rows, packed.length / rows], packed),
    f16(`${prefix}weight_scale`, [rows, columns / GROUP], scales),
    i32(`${prefix}weight_shape`, [2], Int32Array.of(rows, columns)),
    i32(`${prefix}weight_g_idx`, [columns], groupOf),
  ];
}

/** The folder with `tensors` and `quantization_config` in place of its own. */
async function writeModel(name: string, tensors: TensorToWrite[], config: object): Promise<void> {
  cpSync(SOURCE, folderOf(name), { recursive: true });
  await writeSafetensors(path.join(folderOf(name), 'model.safetensors'), { tensors });
  const file = path.join(folderOf(name), 'config.json');
  const own = JSON.parse(readFileSync(file, 'utf8')) as object;
  writeFileSync(file, JSON.stringify({ ...own, ...config }));
}

async function writeModels(): Promise<void> {
  using source = openWeights(SOURCE);
  const files: Record<'gptq' | 'compressed' | 'floats' | 'embedding', TensorToWrite[]> = {
    ...{ gptq: [], compressed: [], floats: [], embedding: [] },
  };
  for (const { name, dtype, shape } of source.tensors.values()) {
    const plain = { name, dtype, shape, data: source.readRows(name).slice() };
    const prefix = name.slice(0, -'weight'.length);
    const matrix = () => rounded(name, source.readF32(name), shape[1]!);
    files.embedding.push(...(name === EMBEDDING ? asGptq(prefix, matrix()) : [plain]));
    if (!LINEAR.test(name)) {
      for (const file of [files.gptq, files.compressed, files.floats]) file.push(plain);
      continue;
    }
    const made = matrix();
    files.gptq.push(...asGptq(prefix, made));
    files.compressed.push(...asCompressed(prefix, made));
    const values = dequantizeIndexed(made);
    files.floats.push({ name, dtype: 'f32', shape, data: bytesOf(values) });
  }
  const gptq = { quant_method: 'gptq', bits: 4, group_size: GROUP, sym: true, desc_act: true };
  const weights = { num_bits: 4, strategy: 'group', group_size: GROUP, actorder: 'group' };
  const compressed = {
    ...{ quant_method: 'compressed-tensors', format: 'pack-quantized' },
    config_groups: { group_0: { weights } },
  };
  await writeModel('gptq', files.gptq, { quantization_config: gptq });
  await writeModel('embedding', files.embedding, { quantization_config: gptq });
  await writeModel('compressed', files.compressed, { quantization_config: compressed });
  await writeModel('floats', files.floats, {});
}

const made = writeModels();

function logitsWith(driver: StepDriver): Float32Array[] {
  const sequence = driver.newSequence();
  return driver.step([{ sequence, tokenIds: TOKENS, logitsOf: [0, 11, TOKENS.length - 1] }]);
}

interface Lowering {
  readonly isLowered?: boolean;
  readonly disabledPasses?: readonly PassName[];
}

/** Logits of the reference target. */
function logitsOf(
  name: string,
  precision: 'fast' | 'f32',
  { isLowered = true, disabledPasses = [] }: Lowering = {},
): Float32Array[] {
  using model = loadModelDescription(folderOf(name));
  const { config, weights } = model;
  const graph = isLowered
    ? lowerModel({ source: weights, config, precision, disabledPasses }).graph
    : stepGraphOf(model);
  verifyGraph(graph, isLowered ? 'lowered' : 'model');
  using runner = new ReferenceRunner({ graph, weights, limits: sameLimits(LIMITS) });
  return logitsWith(new StepDriver(runner)).map((row) => row.slice());
}

function assertNear(seen: readonly Float32Array[], expected: readonly Float32Array[], at: number) {
  for (const [i, row] of seen.entries()) {
    const difference = maxAbsDifference(row, expected[i]!);
    assert.ok(difference < at, `row ${i} is off by ${difference}`);
  }
}

describe('act-order', () => {
  before(() => made);

  it('computes what the floats do that it stands for, lowered or not', () => {
    const expected = logitsOf('floats', 'f32');
    // Sums in another order; measured 5e-7.
    for (const isLowered of [true, false]) {
      assertNear(logitsOf('gptq', 'f32', { isLowered }), expected, 1e-5);
      assertNear(logitsOf('compressed', 'f32', { isLowered }), expected, 1e-5);
    }
    const fast = relativeDifference(logitsOf('gptq', 'fast'), expected);
    // Int8 rounding of inputs, as test/lowering.test.ts has it.
    assert.ok(fast > 0 && fast < 0.05, `${fast}`);
    assertSameBits(logitsOf('compressed', 'fast'), logitsOf('gptq', 'fast'), 'compressed');
  });

  it('is the same with orders in the rows of the weights before', () => {
    for (const precision of ['f32', 'fast'] as const) {
      const without = logitsOf('gptq', precision, { disabledPasses: ['order-rows'] });
      assertSameBits(logitsOf('gptq', precision), without, precision);
      const apart = { disabledPasses: ['merge-linears', 'fuse-gated-activation'] } as const;
      assertSameBits(logitsOf('gptq', precision, apart), without, precision);
    }
  });

  it('is packed in 4 bits, and merged where the orders are the same', () => {
    using model = loadModelDescription(folderOf('gptq'));
    const linears = [...model.weights.tensors.values()].filter(({ name }) => LINEAR.test(name));
    assert.ok(linears.every(({ dtype, columnOrder }) => dtype === 'q4_0' && columnOrder));
    const directory = model.weights.tensors;
    const { graph } = lowerGraph(stepGraphOf(model), { directory, q8Dtypes: ['q4_0'] });
    const labels = new Set(graph.nodes.filter(({ op }) => op === 'linear').map((n) => n.label));
    assert.ok(labels.has('layers.0.self_attn.q_proj+k_proj+v_proj'), printGraph(graph));
    assert.ok(labels.has('layers.0.mlp.gate_proj+up_proj') && labels.has('layers.1.mlp.up_proj'));
    const down = graph.nodes.find(({ label }) => label === 'layers.0.mlp.down_proj');
    assert.equal(down?.inputs[0]?.op, 'gatedActivation');
    assert.match(
      printGraph(graph),
      /gate_proj\.weight\[0:256\] as columns of \S+down_proj\.weight/,
    );
    const others = graph.nodes.filter((n) => n.op === 'linear' && n.inputs[0]!.type !== 'q8');
    assert.deepEqual(
      others.map(({ label }) => label),
      ['lm_head'],
    );
  });

  it('is seen in the order of the inputs by who compresses or converts', () => {
    using floats = loadModelDescription(folderOf('floats'));
    using model = loadModelDescription(folderOf('gptq'));
    const views = [new F32Weights(model.weights), new GgufView(model, 'stored')] as const;
    const expected = [new F32Weights(floats.weights), new GgufView(floats, 'stored')] as const;
    for (const [i, view] of views.entries()) {
      for (const { name, dtype, columnOrder } of view.tensors.values()) {
        assert.equal(columnOrder, undefined);
        if (dtype !== 'f32') continue;
        assert.deepEqual(view.readF32(name), expected[i]!.readF32(name), name);
        assert.deepEqual(view.readRows(name), expected[i]!.readRows(name), name);
      }
    }
    const name = 'blk.1.attn_q.weight';
    const paired = [model, floats].map((each) => new GgufView(each).readRows(name, 3, 9));
    assert.deepEqual(paired[0], paired[1]);
  });

  it('is refused for an embedding, whose rows are no product', () => {
    using model = loadModelDescription(folderOf('embedding'));
    assert.throws(() => stepGraphOf(model), {
      name: 'ModelError',
      message: /"model\.embed_tokens\.weight": columns in an order of their own \(act-order\)/,
    });
  });

  for (const isa of nativeIsas) {
    for (const precision of ['fast', 'f32'] as const) {
      it(`is the same on ${isa} as on the reference target, in ${precision}`, async () => {
        using model = loadModelDescription(folderOf('gptq'));
        const settings = { isa, precision, kvType: 'f32', threads: 2 } as const;
        using runner = await nativeRunner(model, settings, LIMITS);
        assertNear(logitsWith(new StepDriver(runner)), logitsOf('gptq', precision), 1e-4);
      });
    }
    it(`keeps packed weights and plans apart by order on ${isa}`, async () => {
      const cache = folderOf(`cache-${isa}`);
      const settings = { isa, precision: 'fast', kvType: 'f32', threads: 1 } as const;
      const run = async (name: string) => {
        using model = loadModelDescription(folderOf(name));
        using runner = await nativeRunner(model, { ...settings, planCacheFolder: cache }, LIMITS);
        return logitsWith(new StepDriver(runner)).map((row) => row.slice());
      };
      const first = await run('gptq');
      assertSameBits(await run('gptq'), first, 'from the cache');
      assertSameBits(await run('compressed'), first, 'of another layout');
    });
  }
});

for (const isa of X64_ISAS) {
  if (skipOf(isa)) continue;
  describe(`act-order on ${isa}`, () => {
    before(() => made);
    oneAnswerSuite(
      { name: 'act-order', path: folderOf('gptq'), isa, precision: 'fast' },
      {
        lengths: [1, 2, 5, 17, 33],
        longLength: 80,
        chunkSizes: [1, 2, 3, 5, 17, 64],
        batchSizes: [2, 5],
        threads: [2],
        deepLength: null,
      },
    );
  });
}
