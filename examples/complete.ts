/**
 * Text that goes on from a text: chosen greedily, with timings, and one that is stopped from outside.
 *
 *   node examples/complete.ts [MODEL]
 */
import { load } from '../src/index.ts';

await using model = await load(process.argv[2] ?? 'smollm2');

const answer = model.complete('The capital of France is', { temperature: 0, maxTokens: 16 });
console.log(await answer.text());

const { finishReason, timings } = await answer.result;
console.log(
  `${finishReason}: ${timings.outputTokens} tokens, the first after ${timings.ttftMs.toFixed(0)} ms`,
);

const stopper = new AbortController();
const endless = model.complete('Once upon a time', { signal: stopper.signal, ignoreEos: true });
let numTokens = 0;
for await (const part of endless) {
  numTokens += part.tokenIds.length;
  if (numTokens >= 10) stopper.abort();
}
console.log(`stopped after ${numTokens} tokens: ${(await endless.result).finishReason}`);
