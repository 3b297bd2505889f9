/**
 * The Vercel AI SDK, LangChain and the Anthropic client against a running server: whole and streamed answers, calls of functions, JSON schemas.
 *
 *   hasten serve smollm2 &
 *   cd test/clients && npm install && npm run check [URL]
 */
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import Anthropic from '@anthropic-ai/sdk';
import { ChatOpenAI } from '@langchain/openai';
import { generateObject, generateText, jsonSchema, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';

const url = process.argv[2] ?? 'http://127.0.0.1:8000';
const baseURL = `${url}/v1`;
const { data } = await (await fetch(`${baseURL}/models`)).json();
const name = data[0].id;
const question = 'What is the weather in Paris?';
const description = 'Weather of a city';
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const person = z.object({ name: z.string(), age: z.number().int() });
const asked = 'Bob is 7 years old. Who is he?';
let numFailed = 0;

async function check(what, run) {
  try {
    await run();
    console.log(`ok      ${what}`);
  } catch (error) {
    numFailed++;
    console.log(`FAILED  ${what}: ${error.message.split('\n')[0]}`);
  }
}

const provider = createOpenAICompatible({
  name: 'hasten',
  baseURL,
  apiKey: 'none',
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(name);
const short = { model, maxOutputTokens: 12 };
const weather = tool({ description, inputSchema: jsonSchema(parameters) });
const tools = { model, tools: { weather }, prompt: question, maxOutputTokens: 120, temperature: 0 };

await check('ai: generateText', async () => {
  const { text, usage } = await generateText({ ...short, prompt: 'Say hi.' });
  assert.ok(text.length > 0 && usage.outputTokens > 0);
});
await check('ai: streamText', async () => {
  const stream = streamText({ ...short, prompt: 'Say hi.' });
  let text = '';
  for await (const part of stream.textStream) text += part;
  assert.ok(text.length > 0 && (await stream.usage).outputTokens > 0);
});
await check('ai: a tool that must be called', async () => {
  const toolChoice = { type: 'tool', toolName: 'weather' };
  const { toolCalls } = await generateText({ ...tools, toolChoice });
  assert.equal(toolCalls[0].toolName, 'weather');
});
await check('ai: a tool, streamed', async () => {
  const [call] = await streamText({ ...tools, toolChoice: 'required' }).toolCalls;
  assert.equal(call.toolName, 'weather');
});
await check('ai: an object by schema', async () => {
  const { object } = await generateObject({ model, schema: person, prompt: asked, temperature: 0 });
  person.parse(object);
});
await check('ai: an object by schema, streamed', async () => {
  const stream = streamObject({ model, schema: person, prompt: asked, temperature: 0 });
  for await (const part of stream.partialObjectStream) assert.ok(typeof part === 'object');
  person.parse(await stream.object);
});

const configuration = { baseURL };
const options = { model: name, apiKey: 'none', temperature: 0, maxTokens: 120, configuration };
const chat = new ChatOpenAI(options);
const bound = chat.bindTools(
  [{ type: 'function', function: { name: 'weather', description, parameters } }],
  { tool_choice: 'weather' },
);
await check('langchain: invoke', async () => {
  assert.ok((await chat.invoke('Say hi.')).content.length > 0);
});
await check('langchain: stream', async () => {
  let text = '';
  for await (const part of await chat.stream('Say hi.')) text += part.content;
  assert.ok(text.length > 0);
});
await check('langchain: a tool that must be called', async () => {
  assert.equal((await bound.invoke(question)).tool_calls[0].name, 'weather');
});
await check('langchain: a tool, streamed', async () => {
  let all;
  for await (const part of await bound.stream(question)) all = all?.concat(part) ?? part;
  assert.equal(all.tool_calls[0].name, 'weather');
});
await check('langchain: an object by schema', async () => {
  const structured = chat.withStructuredOutput(person, { method: 'jsonSchema' });
  person.parse(await structured.invoke(asked));
});
await check('langchain: responses', async () => {
  const responses = new ChatOpenAI({ ...options, useResponsesApi: true });
  assert.ok((await responses.invoke('Say hi.')).content.length > 0);
});

const anthropic = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
const message = { model: name, max_tokens: 120, messages: [{ role: 'user', content: question }] };
await check('anthropic: a message', async () => {
  assert.ok((await anthropic.messages.create(message)).content.length > 0);
});
await check('anthropic: a tool, streamed', async () => {
  const stream = anthropic.messages.stream({
    ...message,
    tools: [{ name: 'weather', description, input_schema: parameters }],
    tool_choice: { type: 'tool', name: 'weather' },
  });
  const { content } = await stream.finalMessage();
  assert.ok(content.some(({ type, name: called }) => type === 'tool_use' && called === 'weather'));
});

process.exitCode = numFailed > 0 ? 1 : 0;
