/** The form of answers on a real model, with the official client. Taken from the cache, or fetched with HASTEN_REQUIRE_MODELS=1. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { findModelFile } from './real-model-file.ts';
import { end, serve } from './serve-process.ts';

const found = await findModelFile('smollm2');

test('SmolLM2 answers in JSON of a schema, and calls a function', {
  skip: found.skip,
}, async () => {
  const { child, url } = await serve([found.file!, '--max-model-len', '1024']);
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const { data } = await client.models.list();
  const base = { model: data[0]!.id, temperature: 0, max_tokens: 200 };
  const schema = {
    type: 'object',
    properties: { name: { type: 'string' }, age: { type: 'integer' } },
    required: ['name', 'age'],
    additionalProperties: false,
  };
  const json = await client.chat.completions.create({
    ...base,
    messages: [{ role: 'user', content: 'Anna is 31 years old. Give her data as JSON.' }],
    response_format: { type: 'json_schema', json_schema: { name: 'person', schema } },
  });
  assert.deepEqual(JSON.parse(json.choices[0]?.message.content ?? ''), { name: 'Anna', age: 31 });

  const parameters = {
    type: 'object',
    properties: { city: { type: 'string' }, unit: { enum: ['celsius', 'fahrenheit'] } },
    required: ['city', 'unit'],
    additionalProperties: false,
  };
  const called = await client.chat.completions.create({
    ...base,
    messages: [{ role: 'user', content: 'What is the weather in Oslo?' }],
    tools: [{ type: 'function', function: { name: 'get_weather', parameters } }],
    tool_choice: 'required',
    parallel_tool_calls: false,
  });
  const [call] = called.choices[0]?.message.tool_calls ?? [];
  assert.ok(call?.type === 'function' && call.function.name === 'get_weather');
  const args = JSON.parse(call.function.arguments) as { city: string; unit: string };
  assert.match(args.unit, /^(celsius|fahrenheit)$/);
  assert.equal(typeof args.city, 'string');
  assert.equal(await end(child, 'SIGTERM'), 0);
});
