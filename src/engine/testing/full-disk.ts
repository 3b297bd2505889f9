/**
 * Runs the same requests on an engine with a disk behind a small pool, and on one with a large pool, and prints what came of it as JSON. For a test that
 * runs it where files cannot grow: argument 1 is the folder.
 */
import { Engine, type EngineOptions } from '../engine.ts';
import { byteTokenizer } from './byte-decoder.ts';
import { MockRunner } from './mock-runner.ts';

function engineOf(numBlocks: number, offload?: EngineOptions['offload']): Engine {
  const runner = new MockRunner({ limits: { numBlocks } });
  return new Engine({
    runner,
    tokenizer: byteTokenizer,
    eosTokenIds: [],
    ...(offload && { offload }),
  });
}

const folder = process.argv[2]!;
const small = engineOf(20, { memoryBytes: 0, disk: { folder, maxBytes: 1_000_000 } });
const large = engineOf(2000);
let isEqual = true;
for (let round = 0; round < 60; round++) {
  // Few texts at first, which come again; then more than the file may hold.
  const text = round < 20 ? round % 4 : round;
  const promptTokenIds = Array.from({ length: 24 }, (_, i) => (text * 7 + i * (text + 1)) % 40);
  const samplingParams = { temperature: 0, maxTokens: 8 };
  const [one, other] = await Promise.all(
    [small, large].map((engine) => engine.submit({ promptTokenIds, samplingParams }).collect()),
  );
  isEqual &&= one!.text === other!.text;
}
const { offload, numFinished } = await small.stats();
process.stdout.write(JSON.stringify({ ...offload, isEqual, numErrors: numFinished.error }));
await Promise.all([small.close(), large.close()]);
