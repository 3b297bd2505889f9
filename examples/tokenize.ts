/**
 * Text to token ids and back.
 *
 *   node examples/tokenize.ts [MODEL] [TEXT]
 */
import { load } from '../src/index.ts';

const [spec = 'smollm2', text = 'Hello, world!'] = process.argv.slice(2);
await using model = await load(spec);

const tokenIds = model.tokenize(text);
console.log(tokenIds.join(' '));
console.log(tokenIds.map((id) => JSON.stringify(model.detokenize([id]))).join(' '));
console.log(model.detokenize(tokenIds));
