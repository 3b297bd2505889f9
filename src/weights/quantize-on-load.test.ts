import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { rowBytes } from '../tensor/dtype.ts';
import { decodeRow } from '../tensor/rows.ts';
import { WeightFileError } from './errors.ts';
import { QuantizedOnLoad } from './quantize-on-load.ts';
import { writeSafetensors } from './safetensors-writer.ts';
import { openWeights } from './weight-source.ts';

const folder = mkdtempSync(join(tmpdir(), 'hasten-load-'));
after(() => rmSync(folder, { recursive: true }));

async function fileOf(name: string, change?: (values: Float32Array) => void): Promise<string> {
  const values = Float32Array.from({ length: 20 * 64 }, (_, i) => Math.sin(i * 1.7) / 8);
  change?.(values);
  const f32 = new Uint8Array(values.buffer);
  const path = join(folder, name);
  await writeSafetensors(path, {
    tensors: [
      { name: 'fits', dtype: 'f32', shape: [20, 64], data: f32 },
      { name: 'odd', dtype: 'f32', shape: [32, 40], data: f32 },
      { name: 'vector', dtype: 'f32', shape: [1280], data: f32 },
      { name: 'ids', dtype: 'i32', shape: [20, 64], data: f32 },
    ],
  });
  return path;
}

it('encodes the matrices that fit, whatever the rows asked for, and leaves the rest', async () => {
  using source = openWeights(await fileOf('a.safetensors'));
  using weights = new QuantizedOnLoad(source, () => 'q8_0');
  const dtypes = Object.fromEntries([...weights.tensors].map(([name, t]) => [name, t.dtype]));
  assert.deepEqual(dtypes, { fits: 'q8_0', odd: 'f32', vector: 'f32', ids: 'i32' });
  const whole = weights.readRows('fits');
  assert.equal(whole.length, 20 * rowBytes('q8_0', 64));
  assert.equal(weights.tensors.get('fits')!.sizeBytes, whole.length);
  const into = new Uint8Array(whole.length + 3);
  const first = weights.readRows('fits', 0, 7, into).slice();
  assert.deepEqual(Buffer.concat([first, weights.readRows('fits', 7)]), Buffer.from(whole));
  const stored = source.readF32('fits');
  const values = weights.readF32('fits');
  const decoded = new Float32Array(values.length);
  decodeRow('q8_0', whole, 0, decoded, decoded.length);
  assert.deepEqual(values, decoded);
  assert.ok(values.every((value, i) => Math.abs(value - stored[i]!) < 0.125 / 254 + 1e-4));
  assert.deepEqual(weights.readF32('odd'), source.readF32('odd'));
});

it('names a weight that is no number', async () => {
  const path = await fileOf('b.safetensors', (values) => {
    values[5 * 64 + 9] = Number.NaN;
  });
  using weights = new QuantizedOnLoad(openWeights(path), () => 'nf4');
  assert.doesNotThrow(() => weights.readRows('fits', 0, 5));
  assert.throws(
    () => weights.readRows('fits'),
    (error: unknown) =>
      error instanceof WeightFileError &&
      error.fault === 'corrupt' &&
      /"fits": element \[5, 9\] is NaN/.test(error.message),
  );
});
