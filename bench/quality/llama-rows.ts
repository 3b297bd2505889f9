/** llama.cpp's logits of given windows to stdout (see logit-rows.ts), with its defaults: KV cache in f16, flash attention as it chooses. */
import { LlamaAddon } from '../peers/llama-addon.ts';
import { readRequest, writeRow } from './logit-rows.ts';

const { folder, model, windows, threads } = await readRequest();
const llama = await LlamaAddon.load(folder ?? '', model);
const longest = Math.max(...windows.map((tokenIds) => tokenIds.length));
const context = await llama.createContext({
  contextSize: longest,
  batchSize: longest,
  flashAttention: 'auto',
  threads,
});
const sampler = llama.createSampler();
sampler.applyConfig({ temperature: 0 });
for (const tokenIds of windows) {
  context.disposeSequence(0);
  context.initBatch(longest);
  const tokens = Uint32Array.from(tokenIds.slice(0, -1));
  const outputs = context.addToBatch(0, 0, tokens, Uint32Array.from(tokens.keys()));
  await context.decodeBatch();
  for (const output of outputs) {
    // Pairs of token and logit, sorted by logit.
    const [, , , pairs] = await context.sampleToken(output, sampler, false, false, true);
    const row = new Float32Array(pairs.length / 2);
    for (let i = 0; i < pairs.length; i += 2) row[pairs[i]!] = pairs[i + 1]!;
    await writeRow(row);
  }
}
process.stdout.end(() => process.exit(0));
