/** `hasten serve` as a process, on the model that the repository carries, with the official OpenAI client. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import OpenAI from 'openai';
import { runHasten, startHasten } from './run-hasten.ts';
import { end, type Serving, serve } from './serve-process.ts';

describe('hasten serve', () => {
  let serving: Serving;
  let client: OpenAI;
  before(async () => {
    serving = await serve(['tiny']);
    client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'none', maxRetries: 0 });
  });
  after(async () => {
    assert.equal(await end(serving.child, 'SIGTERM'), 0);
  });

  const greedy = { model: 'tiny', temperature: 0 } as const;
  const messages = [{ role: 'user' as const, content: 'Hello' }];

  test('prints the address and a curl line that works', async () => {
    const { stdout } = serving.output();
    assert.match(stdout, /^tiny \(embedded\) is served at http:/);
    const body = /-d '(.*)'/.exec(stdout)?.[1];
    const [url] = /http:\S+\/v1\/chat\/completions/.exec(stdout) ?? [];
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(url ?? '', { method: 'POST', headers, body });
    assert.equal(response.status, 200, await response.text());
  });

  test('answers the same whole, streamed, and as a completion of the rendered prompt', async () => {
    const whole = await client.chat.completions.create({ ...greedy, messages, max_tokens: 20 });
    const text = whole.choices[0]?.message.content;
    let streamed = '';
    const stream = await client.chat.completions.create({
      ...greedy,
      messages,
      max_tokens: 20,
      stream: true,
    });
    for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? '';
    assert.equal(streamed, text);
    // The template of byte models; BOS is added to a plain prompt.
    const prompt = 'user: Hello\nassistant: ';
    const completion = await client.completions.create({ ...greedy, prompt, max_tokens: 20 });
    assert.equal(completion.choices[0]?.text, text);
    assert.equal(completion.usage?.prompt_tokens, whole.usage?.prompt_tokens);
  });

  test('answers in the form that is asked for, whole and streamed', async () => {
    const schema = {
      type: 'object',
      properties: { mood: { enum: ['good', 'bad'] }, points: { type: 'integer', maximum: 99 } },
      required: ['mood', 'points'],
      additionalProperties: false,
    };
    const response_format = {
      type: 'json_schema' as const,
      json_schema: { name: 'review', schema, strict: true },
    };
    const whole = await client.chat.completions.create({ ...greedy, messages, response_format });
    const text = whole.choices[0]?.message.content ?? '';
    const answer = JSON.parse(text) as { mood: string; points: number };
    assert.match(answer.mood, /^(good|bad)$/);
    assert.ok(Number.isInteger(answer.points) && answer.points <= 99);
    assert.equal(whole.choices[0]?.finish_reason, 'stop');
    const stream = client.chat.completions.stream({ ...greedy, messages, response_format });
    assert.equal(await stream.finalContent(), text);

    const { output_text } = await client.responses.create({
      ...greedy,
      input: messages,
      text: { format: { type: 'json_schema', name: 'review', schema } },
    });
    assert.equal(output_text, text);

    const choices = await client.completions.create({
      ...{ model: 'tiny', prompt: 'x', n: 3, temperature: 2, max_tokens: 30 },
      ...{ structured_outputs: { choice: ['yes', 'no', 'perhaps'] } },
    });
    for (const { text } of choices.choices) assert.match(text, /^(yes|no|perhaps)$/);

    const wrong = client.chat.completions.create({
      ...{ ...greedy, messages, stream: true },
      response_format: {
        type: 'json_schema',
        json_schema: { name: 'x', schema: { type: 'nothing' } },
      },
    });
    await assert.rejects(wrong, { status: 400, param: 'response_format', message: /"nothing"/ });
  });

  test('ends at the token limit of the model, and refuses prompts beyond it with the numbers', async () => {
    const full = await client.completions.create({
      ...greedy,
      prompt: 'x',
      max_tokens: 254,
      ...{ ignore_eos: true },
    });
    assert.equal(full.choices[0]?.finish_reason, 'length');
    assert.equal(full.usage?.total_tokens, 256);
    const tooLong = client.completions.create({ ...greedy, prompt: 'x'.repeat(300) });
    await assert.rejects(tooLong, /301 prompt tokens.*256/);
  });

  test('ends before a stop string', async () => {
    const base = { ...greedy, messages, max_tokens: 40 };
    const whole = await client.chat.completions.create(base);
    const text = whole.choices[0]?.message.content ?? '';
    const stop = text.slice(5, 7);
    const stopped = await client.chat.completions.create({ ...base, stop });
    assert.equal(stopped.choices[0]?.message.content, text.slice(0, text.indexOf(stop)));
    assert.equal(stopped.choices[0]?.finish_reason, 'stop');
  });

  test('bans a token by its bias', async () => {
    const base = { ...greedy, messages, max_tokens: 4, logprobs: true };
    const first = (await client.chat.completions.create(base)).choices[0]?.logprobs?.content?.[0];
    const id = (first?.bytes?.[0] ?? 0) + 3; // byte b is token 3 + b
    const banned = await client.chat.completions.create({ ...base, logit_bias: { [id]: -100 } });
    assert.notDeepEqual(banned.choices[0]?.logprobs?.content?.[0]?.bytes, first?.bytes);
  });

  test('gives logprobs that add up', async () => {
    const answer = await client.chat.completions.create({
      ...greedy,
      messages,
      max_tokens: 3,
      logprobs: true,
      top_logprobs: 20,
    });
    for (const { logprob, top_logprobs: top } of answer.choices[0]?.logprobs?.content ?? []) {
      assert.equal(top.length, 20);
      assert.equal(top[0]?.logprob, logprob);
      const sum = top.reduce((total, each) => total + Math.exp(each.logprob), 0);
      assert.ok(sum > 0.1 && sum <= 1.0001, `${sum}`);
    }
  });

  test('draws the same text from the same seed, and several texts from one request', async () => {
    const base = { model: 'tiny', messages, max_tokens: 12, temperature: 1, seed: 5, n: 3 };
    const texts = async () =>
      (await client.chat.completions.create(base)).choices.map(({ message }) => message.content);
    const first = await texts();
    assert.deepEqual(await texts(), first);
    assert.equal(new Set(first).size, 3);
  });

  test('counts the prompt tokens that it had computed before', async () => {
    const prompt = 'A prompt that is longer than a few blocks of the cache. '.repeat(2);
    const ask = () => client.completions.create({ ...greedy, prompt, max_tokens: 1 });
    await ask();
    const cached = (await ask()).usage?.prompt_tokens_details?.cached_tokens ?? 0;
    assert.ok(cached > 50, `${cached}`);
  });

  test('refuses images, naming the part', async () => {
    const image = { type: 'image_url' as const, image_url: { url: 'data:,' } };
    const asked = client.chat.completions.create({
      ...greedy,
      messages: [{ role: 'user', content: [image] }],
    });
    await assert.rejects(asked, (error: InstanceType<typeof OpenAI.BadRequestError>) => {
      assert.equal(error.param, 'messages[0].content[0].type');
      return true;
    });
  });

  test('goes on serving when clients hang up', async () => {
    const long = { ...greedy, prompt: 'x', max_tokens: 250, stream: true as const };
    for (let i = 0; i < 5; i++) {
      const stream = await client.completions.create({ ...long, ...{ ignore_eos: true } });
      for await (const _ of stream) break;
    }
    const answer = await client.chat.completions.create({ ...greedy, messages, max_tokens: 2 });
    assert.equal(answer.usage?.completion_tokens, 2);
  });
});

test('serves under the names it was given', async () => {
  const { child, url } = await serve(['tiny', '--served-model-name', 'one', 'two']);
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
  assert.deepEqual(
    data.map(({ id }) => id),
    ['one', 'two'],
  );
  assert.equal(await end(child, 'SIGINT'), 0);
});

test('falls back to the embedded model where the default cannot be had, and says so', async () => {
  const env = { HF_HOME: '/nonexistent/hasten-test' };
  const child = startHasten(['serve', '--offline', '--port', '0'], { env });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (data) => {
      output += data;
    });
  }
  for (let i = 0; i < 600 && !output.includes('Ctrl-C'); i++) await setTimeout(25);
  assert.equal(await end(child, 'SIGTERM'), 0);
  assert.match(output, /smollm2, could not be had/);
  assert.match(output, /Served instead is "tiny"/);
});

test('fails at once where the port is taken, or the model is not there', async () => {
  const { child, url } = await serve(['tiny']);
  const port = new URL(url).port;
  const taken = await runHasten(['serve', 'tiny', '--port', port]);
  assert.equal(taken.code, 1);
  assert.equal(taken.stdout, '');
  assert.match(taken.stderr, new RegExp(`port ${port}: another program uses this port`));
  await end(child, 'SIGTERM');
  const missing = await runHasten(['serve', './nothing', '--port', '0', '--log-level', 'silent']);
  assert.equal(missing.code, 1);
  assert.equal(missing.stdout, '');
  assert.match(missing.stderr, /no such file/);
});
