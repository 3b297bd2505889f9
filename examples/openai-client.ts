/**
 * The official OpenAI client against a server of ours, which must be running: `npx hasten serve`.
 *
 *   node examples/openai-client.ts [BASE_URL]
 */
import OpenAI from 'openai';

const baseURL = process.argv[2] ?? 'http://127.0.0.1:8000/v1';
const client = new OpenAI({ baseURL, apiKey: 'none' });

const { data } = await client.models.list();
const model = data[0]?.id ?? '';

const stream = await client.chat.completions.create({
  model,
  messages: [{ role: 'user', content: 'Why is the sky blue?' }],
  max_tokens: 64,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? '');
  if (chunk.usage) console.log(`\n${chunk.usage.completion_tokens} tokens`);
}
