/**
 * A conversation with a model, as it comes.
 *
 *   node examples/chat.ts [MODEL]
 *
 * In a project of your own: `import { load } from 'hasten'`.
 */
import { load } from '../src/index.ts';

await using model = await load(process.argv[2] ?? 'smollm2');

const messages = [{ role: 'user', content: 'Name three colours of the rainbow.' }];
for await (const part of model.chat(messages, { maxTokens: 64 })) {
  process.stdout.write(part.text);
}
process.stdout.write('\n');
