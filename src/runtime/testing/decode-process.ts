/**
 * A program that decodes with a tiny model and counts what the steps allocate on the JavaScript heap. Needs --expose-gc. Prints one line of JSON, the bytes per
 * step of each round.
 *
 *     node --expose-gc decode-process.ts MODEL THREADS
 */
import { nativeIsas, nativeRunner } from '../../../test/native-models.ts';
import { loadModelDescription } from '../../models/load-model.ts';

const NUM_SEQS = 4;
const CONTEXT = 256;
const NUM_ROUNDS = 20;
const STEPS_PER_ROUND = 2000;
const BLOCKS_PER_SEQ = CONTEXT / 16;

const [path, threads] = process.argv.slice(2);
using model = loadModelDescription(path!);
using runner = await nativeRunner(
  model,
  { isa: nativeIsas[0]!, precision: 'fast', threads: Number(threads) },
  {
    maxTokens: 16,
    maxSeqs: NUM_SEQS,
    maxLogitRows: NUM_SEQS,
    maxModelLen: CONTEXT,
    numBlocks: NUM_SEQS * BLOCKS_PER_SEQ,
  },
);
const { batch } = runner;

/** One token of each sequence at `position`, as the engine does it; gives something of all results, so that they are read. */
function decode(position: number): number {
  batch.numTokens = NUM_SEQS;
  batch.numSeqs = NUM_SEQS;
  batch.numLogitRows = NUM_SEQS;
  batch.queryStarts[0] = 0;
  const block = Math.floor(position / 16);
  for (let s = 0; s < NUM_SEQS; s++) {
    const firstBlock = s * BLOCKS_PER_SEQ;
    batch.tokenIds[s] = (position + s) % 60;
    batch.positions[s] = position;
    batch.slotMapping[s] = (firstBlock + block) * 16 + (position % 16);
    batch.queryStarts[s + 1] = s + 1;
    batch.contextLens[s] = position + 1;
    batch.logitRows[s] = s;
    for (let b = 0; b <= block; b++)
      batch.blockTables[s * batch.maxBlocksPerSeq + b] = firstBlock + b;
  }
  runner.submit();
  let sum = 0;
  for (let s = 0; s < NUM_SEQS; s++) {
    sum += runner.logits(s)[0]! + runner.sliceMax(s)[0]! + runner.sliceExpSum(s)[0]!;
  }
  return sum;
}

const bytesPerStep: number[] = [];
let sum = 0;
for (let round = 0; round < NUM_ROUNDS; round++) {
  globalThis.gc?.();
  const before = process.memoryUsage().heapUsed;
  for (let i = 0; i < STEPS_PER_ROUND; i++) sum += decode(i % CONTEXT);
  bytesPerStep.push((process.memoryUsage().heapUsed - before) / STEPS_PER_ROUND);
}
console.log(JSON.stringify({ bytesPerStep, areFinite: Number.isFinite(sum) }));
