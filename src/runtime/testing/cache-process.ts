/**
 * A program that takes the packed weights of a model from a cache folder and prints what it got, as one line of JSON. With `hang` its source of weights says
 * "packing" and stands still in the middle; with `unprivileged` it is not the superuser, who may write anywhere.
 *
 *     node cache-process.ts MODEL FOLDER [hang|unprivileged]
 */
import { createHash } from 'node:crypto';
import { writeSync } from 'node:fs';
import { loadModelDescription } from '../../models/load-model.ts';
import { u8 } from '../../platform/native-memory.ts';
import type { WeightSource } from '../../weights/contract.ts';
import { planRunner } from '../compile-model.ts';
import { cachedWeights } from '../plan-cache.ts';

const [path, folder, mode] = process.argv.slice(2);
using model = loadModelDescription(path!);
const { config, weights } = model;

/** `weights`, but reading the 8th matrix never ends. */
function hangingSource(): WeightSource {
  let reads = 0;
  const readRows: WeightSource['readRows'] = (name, rowStart, rowEnd, into) => {
    if (++reads === 8) {
      writeSync(1, 'packing\n');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    }
    return weights.readRows(name, rowStart, rowEnd, into);
  };
  return new Proxy(weights, {
    get: (target, key) => {
      const value = Reflect.get(target, key, target);
      if (key === 'readRows') return readRows;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

const source = mode === 'hang' ? hangingSource() : weights;
const { plan } = planRunner(
  { source, config, target: 'avx2', precision: 'fast', threads: 1, planCacheFolder: folder! },
  'avx2',
);
const NOBODY = 65534;
if (mode === 'unprivileged' && process.geteuid?.() === 0) process.seteuid?.(NOBODY);
try {
  using image = await cachedWeights(plan, source, { folder: folder!, maxBytes: 2 ** 30 });
  const digest = createHash('sha256').update(u8(image.address, plan.weightBytes)).digest('hex');
  console.log(JSON.stringify({ wasCached: image.wasCached, digest }));
} catch (error) {
  console.log(JSON.stringify({ error: (error as Error).constructor.name }));
}
