/**
 * Sound files, damaged at random (seeded) and systematically: cut at every length, every header byte changed. Whatever comes out must
 * load or end in a WeightFileError; anything else that is thrown, a hang or a jump in memory is a bug.
 */
import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import fc from 'fast-check';
import { type DType, rowBytes } from '../tensor/dtype.ts';
import { writeGguf } from './gguf-writer.ts';
import { writeSafetensors } from './safetensors-writer.ts';
import { peakBytes, probe } from './testing/probe.ts';
import { TestFolder } from './testing/raw-files.ts';

const NUM_RUNS = 3000;
const MAX_ELAPSED_MS = 2000;
const MAX_GROWTH_BYTES = 160 * 1024 * 1024;

const zeros = (name: string, dtype: DType, shape: readonly number[]) => ({
  name,
  dtype,
  shape,
  data: new Uint8Array(
    rowBytes(
      dtype,
      shape.reduce((a, b) => a * b, 1),
    ),
  ),
});

const good = new Map<string, Buffer>();

before(async () => {
  using folder = new TestFolder();
  const gguf = join(folder.path, 'g');
  await writeGguf(gguf, {
    metadata: [
      ['general.architecture', 'llama'],
      ['general.alignment', 32],
      ['llama.block_count', 2],
      ['llama.rope.freq_base', { type: 'f32', value: 10000 }],
      ['tokenizer.ggml.tokens', ['<s>', 'Ġthe', '漢', 'a']],
      ['tokenizer.ggml.scores', Float32Array.of(0, -1, -2, -3)],
      ['tokenizer.ggml.add_bos_token', true],
      ['nested', [['x'], Int32Array.of(1, 2)]],
      ['large', 2n ** 60n],
    ],
    tensors: [
      zeros('token_embd.weight', 'q8_0', [4, 64]),
      zeros('blk.0.ffn.weight', 'q4_k', [2, 256]),
      zeros('output_norm.weight', 'f32', [64]),
    ],
  });
  good.set('gguf', readFileSync(gguf));
  const safetensors = join(folder.path, 's');
  await writeSafetensors(safetensors, {
    metadata: { format: 'pt' },
    tensors: [
      zeros('model.embed_tokens.weight', 'bf16', [4, 8]),
      zeros('model.norm.weight', 'f32', [8]),
      zeros('ids', 'i64', [3]),
    ],
  });
  good.set('safetensors', readFileSync(safetensors));
});

type Edit =
  | { readonly kind: 'byte'; readonly at: number; readonly value: number }
  | { readonly kind: 'u32' | 'u64'; readonly at: number; readonly value: bigint }
  | { readonly kind: 'cut' | 'delete'; readonly at: number; readonly length: number }
  | { readonly kind: 'insert'; readonly at: number; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly at: number; readonly from: number; readonly length: number };

/** Numbers that break size arithmetic: powers of two and their neighbours, ASCII digits and braces among the bytes. */
const nastyNumber = fc.oneof(
  fc.integer({ min: 0, max: 63 }).map((bit) => 1n << BigInt(bit)),
  fc.integer({ min: 1, max: 64 }).map((bit) => (1n << BigInt(bit)) - 1n),
  fc.bigInt({ min: 0n, max: 300n }),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const nastyByte = fc.oneof(
  fc.integer({ min: 0, max: 255 }),
  fc.constantFrom(...Buffer.from('0123456789.-eE"\\{}[],: \0\xff', 'latin1')),
);
/** Most of the format is in the first bytes. */
const place = (size: number) =>
  fc.oneof(fc.nat(size - 1), fc.nat(Math.min(size - 1, 64)), fc.nat(Math.min(size - 1, 600)));

function edits(size: number): fc.Arbitrary<Edit[]> {
  const at = place(size);
  const length = fc.integer({ min: 1, max: 64 });
  const edit: fc.Arbitrary<Edit> = fc.oneof(
    fc.record({ kind: fc.constant('byte' as const), at, value: nastyByte }),
    fc.record({ kind: fc.constantFrom('u32' as const, 'u64' as const), at, value: nastyNumber }),
    fc.record({ kind: fc.constantFrom('cut' as const, 'delete' as const), at, length }),
    fc.record({
      kind: fc.constant('insert' as const),
      at,
      bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }),
    }),
    fc.record({ kind: fc.constant('copy' as const), at, from: fc.nat(size - 1), length }),
  );
  return fc.array(edit, { minLength: 1, maxLength: 4 });
}

function apply(file: Buffer, edit: Edit): Buffer {
  const at = Math.min(edit.at, file.length);
  switch (edit.kind) {
    case 'byte': {
      const bytes = Buffer.from(file);
      bytes[at] = edit.value;
      return bytes;
    }
    case 'u32':
    case 'u64': {
      const value = Buffer.alloc(8);
      value.writeBigUInt64LE(BigInt.asUintN(64, edit.value));
      const bytes = Buffer.from(file);
      value.copy(bytes, at, 0, edit.kind === 'u32' ? 4 : 8);
      return bytes;
    }
    case 'cut':
      return file.subarray(0, at);
    case 'delete':
      return Buffer.concat([file.subarray(0, at), file.subarray(at + edit.length)]);
    case 'insert':
      return Buffer.concat([file.subarray(0, at), edit.bytes, file.subarray(at)]);
    case 'copy':
      return Buffer.concat([
        file.subarray(0, at),
        file.subarray(edit.from, edit.from + edit.length),
        file.subarray(at),
      ]);
    default:
      return edit satisfies never;
  }
}

/** @returns whether it loaded */
function checkHarmless(path: string): boolean {
  const { error, elapsedMs } = probe(path);
  assert.ok(elapsedMs < MAX_ELAPSED_MS, `took ${elapsedMs} ms`);
  if (error !== null) {
    assert.equal(error.file, path);
    assert.ok(error.message.length > path.length + 10 && error.message.length < 1500);
  }
  return error === null;
}

for (const format of ['gguf', 'safetensors']) {
  test(`${format}: randomly damaged files load or fail cleanly`, () => {
    using folder = new TestFolder();
    const file = good.get(format)!;
    const peakBefore = peakBytes();
    let numLoaded = 0;
    fc.assert(
      fc.property(edits(file.length), (list) => {
        const damaged = list.reduce(apply, file);
        if (checkHarmless(folder.file(`x.${format}`, damaged))) numLoaded++;
      }),
      { seed: 20261121, numRuns: NUM_RUNS },
    );
    const growth = peakBytes() - peakBefore;
    assert.ok(growth < MAX_GROWTH_BYTES, `memory rose by ${growth} bytes`);
    // Both ends are reached: damage to data or padding loads, damage to the header mostly does not.
    assert.ok(numLoaded > NUM_RUNS / 50 && numLoaded < NUM_RUNS * 0.9, `${numLoaded} loaded`);
  });

  test(`${format}: cut at any length, it is refused`, () => {
    using folder = new TestFolder();
    const file = good.get(format)!;
    assert.ok(checkHarmless(folder.file(`x.${format}`, file)), 'whole, it loads');
    for (let length = 0; length < file.length; length++) {
      const isLoaded = checkHarmless(folder.file(`x.${format}`, file.subarray(0, length)));
      // GGUF pads the end of the data; nothing is lost with that.
      if (isLoaded) assert.ok(format === 'gguf' && file.length - length < 32, `cut at ${length}`);
    }
  });

  test(`${format}: with any one byte of its header changed, it loads or fails cleanly`, () => {
    using folder = new TestFolder();
    const file = good.get(format)!;
    for (let at = 0; at < Math.min(file.length, 900); at++) {
      for (const value of [0, 255, file[at]! ^ 1, file[at]! ^ 128]) {
        const damaged = Buffer.from(file);
        damaged[at] = value;
        checkHarmless(folder.file(`x.${format}`, damaged));
      }
    }
  });
}
