/** The endpoints beside plain answers: calls of functions, /v1/responses, /v1/messages, filling in, token ids; most with the real client. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import OpenAI from 'openai';
import type { ToolStyle } from '../app/tool-prompt.ts';
import { EchoModel } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

/** As GLM-4.5 writes it. */
const KEYED_CALL =
  '<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>\n</tool_call>';
const CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>';
const QUESTION = [{ role: 'user' as const, content: 'Is it raining?' }];
const parameters = { type: 'object', properties: { city: { type: 'string' } } };
const TOOLS = [{ type: 'function' as const, function: { name: 'weather', parameters } }];

/** A model that answers `script`, to its end and no further. */
async function scripted(script: string, toolStyle: ToolStyle = 'hermes') {
  const model = new EchoModel({ script, toolStyle });
  const server = await startTestServer(model);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const post = async (path: string, body: object) => {
    const response = await fetch(server.url + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    return { status: response.status, body: await response.text() };
  };
  return {
    model,
    client,
    post,
    numTokens: Buffer.byteLength(script),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

describe('calls of functions in chat', () => {
  test('come whole, several and beside text', async () => {
    await using server = await scripted(`Let me see.${CALL}\n${CALL}`);
    const answer = await server.client.chat.completions.create({
      model: 'echo',
      messages: QUESTION,
      tools: TOOLS,
      max_tokens: server.numTokens,
    });
    const { message } = answer.choices[0]!;
    assert.equal(message.content, 'Let me see.');
    assert.equal(message.tool_calls?.length, 2);
    const [first, second] = message.tool_calls ?? [];
    assert.ok(first?.type === 'function' && second?.type === 'function');
    assert.deepEqual(first.function, { name: 'weather', arguments: '{"city":"Bonn"}' });
    assert.notEqual(first.id, second.id);
  });

  test('come streamed, without a trace of their text, in JSON or as keys and values', async () => {
    for (const script of [CALL, KEYED_CALL]) {
      await using server = await scripted(script);
      const stream = server.client.chat.completions.stream({
        model: 'echo',
        messages: QUESTION,
        tools: TOOLS,
        max_tokens: server.numTokens,
      });
      const { message } = (await stream.finalChatCompletion()).choices[0]!;
      assert.equal(message.content || null, null);
      const [call] = message.tool_calls ?? [];
      assert.deepEqual(JSON.parse(call?.function.arguments ?? ''), { city: 'Bonn' });
    }
  });

  test('that must be made begin as the template writes them, and are kept to a schema where that can be', async () => {
    const script = KEYED_CALL.slice(KEYED_CALL.indexOf('<arg_key>'));
    await using server = await scripted(script, 'glm-keys');
    const ask = async (strict: boolean) => {
      const tools = [{ ...TOOLS[0]!, function: { ...TOOLS[0]!.function, strict } }];
      const body = { model: 'echo', messages: QUESTION, tools, tool_choice: 'required' };
      return await server.post('/v1/chat/completions', { ...body, max_tokens: script.length });
    };
    const { status, body } = await ask(false);
    assert.equal(status, 200, body);
    const [call] = JSON.parse(body).choices[0].message.tool_calls;
    assert.deepEqual(call.function, { name: 'weather', arguments: '{"city":"Bonn"}' });
    const refused = await ask(true);
    assert.equal(refused.status, 400);
    assert.equal(JSON.parse(refused.body).error.param, 'tools');
  });

  test('are not looked for without tools or with tool_choice none', async () => {
    await using server = await scripted(CALL);
    const base = { model: 'echo', messages: QUESTION, max_tokens: server.numTokens };
    for (const extra of [{}, { tools: TOOLS, tool_choice: 'none' as const }]) {
      const answer = await server.client.chat.completions.create({ ...base, ...extra });
      assert.equal(answer.choices[0]?.message.content, CALL);
    }
  });

  test('that must be made, must be of a function there is', async () => {
    await using server = await scripted('');
    const asked = server.client.chat.completions.create({
      model: 'echo',
      messages: QUESTION,
      tools: TOOLS,
      tool_choice: { type: 'function', function: { name: 'other' } },
    });
    await assert.rejects(asked, /there is no tool "other"/);
  });

  test('have a form where they must be made or the function is strict, and only there', async () => {
    const strict = [{ ...TOOLS[0]!, function: { ...TOOLS[0]!.function, strict: true } }];
    const base = { model: 'echo', messages: QUESTION, max_tokens: 4 };
    const cases = [
      [{ tools: TOOLS }, undefined],
      [{ tools: TOOLS, tool_choice: 'required' }, 'tags'],
      [{ tools: strict }, 'tags'],
      [{ tools: strict, tool_choice: 'none' }, undefined],
      [{ tools: strict, response_format: { type: 'json_object' } }, 'json_object'],
      [{ guided_choice: ['a'] }, 'choice'],
    ] as const;
    for (const [extra, type] of cases) {
      await using server = await scripted('text');
      const { status } = await server.post('/v1/chat/completions', { ...base, ...extra });
      assert.equal(status, 200);
      assert.equal(server.model.requests[0]?.grammar?.type, type, JSON.stringify(extra));
    }
  });

  test('of strict functions whose schema cannot be kept to are refused, of others left free', async () => {
    await using server = await startTestServer(new EchoModel({ grammarFault: 'too odd' }));
    const ask = async (strict: boolean) => {
      const tools = [{ ...TOOLS[0]!, function: { ...TOOLS[0]!.function, strict } }];
      const body = { model: 'echo', messages: QUESTION, tools, tool_choice: 'required' };
      return await fetch(`${server.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...body, max_tokens: 4, stream: true }),
      });
    };
    assert.equal((await ask(false)).status, 200);
    const refused = await ask(true);
    assert.equal(refused.status, 400);
    const { error } = (await refused.json()) as { error: object };
    const message = 'tools: too odd';
    const expected = { message, param: 'tools', code: 'invalid_grammar' };
    assert.deepEqual(error, { ...expected, type: 'invalid_request_error' });
  });

  test('and their results reach the template, arguments as objects', async () => {
    await using server = await scripted('It rains.');
    const call = { id: 'c1', type: 'function' as const };
    await server.client.chat.completions.create({
      model: 'echo',
      max_tokens: 2,
      messages: [
        ...QUESTION,
        {
          role: 'assistant',
          tool_calls: [{ ...call, function: { name: 'weather', arguments: '{"city":"Bonn"}' } }],
        },
        { role: 'tool', tool_call_id: 'c1', content: 'rain' },
      ],
    });
    const [, assistant, tool] = server.model.chats[0] ?? [];
    assert.deepEqual(assistant?.tool_calls, [
      { ...call, function: { name: 'weather', arguments: { city: 'Bonn' } } },
    ]);
    assert.equal(tool?.content, 'rain');
  });
});

describe('/v1/responses', () => {
  test('answers whole and streamed', async () => {
    await using server = await scripted('It rains.');
    const base = { model: 'echo', instructions: 'Be brief.', input: 'Rain?', max_output_tokens: 9 };
    const whole = await server.client.responses.create(base);
    assert.equal(whole.output_text, 'It rains.');
    assert.equal(whole.usage?.output_tokens, 9);
    assert.deepEqual(
      server.model.chats[0]?.map(({ role }) => role),
      ['system', 'user'],
    );
    const stream = server.client.responses.stream(base);
    const kinds: string[] = [];
    for await (const { type } of stream) kinds.push(type);
    const final = await stream.finalResponse();
    assert.equal(final.output_text, 'It rains.');
    assert.deepEqual(
      kinds.filter((kind, i) => kind !== kinds[i - 1]),
      [
        'response.created',
        'response.in_progress',
        'response.output_item.added',
        'response.content_part.added',
        'response.output_text.delta',
        'response.output_text.done',
        'response.content_part.done',
        'response.output_item.done',
        'response.incomplete',
      ],
    );
  });

  test('calls functions, and takes what they gave', async () => {
    await using server = await scripted(CALL);
    const tool = { type: 'function' as const, name: 'weather', parameters, strict: false };
    const base = { model: 'echo', tools: [tool], max_output_tokens: server.numTokens };
    const whole = await server.client.responses.create({ ...base, input: 'Rain?' });
    const stream = server.client.responses.stream({ ...base, input: 'Rain?' });
    for (const { output } of [whole, await stream.finalResponse()]) {
      const [call] = output;
      assert.ok(call?.type === 'function_call');
      assert.equal(call.arguments, '{"city":"Bonn"}');
    }
    await server.client.responses.create({
      ...base,
      input: [
        { role: 'user', content: [{ type: 'input_text', text: 'Rain?' }] },
        { type: 'function_call', call_id: 'c', name: 'weather', arguments: '{}' },
        { type: 'function_call_output', call_id: 'c', output: 'rain' },
      ],
    });
    assert.deepEqual(
      server.model.chats.at(-1)?.map(({ role, content }) => [role, content]),
      [
        ['user', 'Rain?'],
        ['assistant', ''],
        ['tool', 'rain'],
      ],
    );
  });
});

describe('/v1/messages', () => {
  const base = { model: 'echo', messages: QUESTION };

  test('answers whole, with what stopped it', async () => {
    await using server = await scripted('It rains.');
    const { body } = await server.post('/v1/messages', { ...base, max_tokens: 5, system: 'Hm.' });
    const { id, ...rest } = JSON.parse(body);
    assert.match(id, /^msg_/);
    assert.deepEqual(rest, {
      type: 'message',
      role: 'assistant',
      model: 'echo',
      content: [{ type: 'text', text: 'It ra' }],
      stop_reason: 'max_tokens',
      stop_sequence: null,
      usage: {
        input_tokens: 9,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 0,
        output_tokens: 5,
      },
    });
  });

  test('streams text and calls in blocks', async () => {
    await using server = await scripted(`Hm.${CALL}`);
    const tools = [{ name: 'weather', input_schema: parameters }];
    const { body } = await server.post('/v1/messages', {
      ...base,
      tools,
      max_tokens: server.numTokens,
      stream: true,
    });
    const events = body
      .trimEnd()
      .split('\n\n')
      .map((event) => {
        const [, name, data] = /^event: (\S+)\ndata: (.*)$/.exec(event) ?? [];
        const value = JSON.parse(data ?? '');
        assert.equal(value.type, name);
        return value;
      });
    const text = events.map(({ delta }) => delta?.text ?? '').join('');
    const json = events.map(({ delta }) => delta?.partial_json ?? '').join('');
    assert.equal(text, 'Hm.');
    assert.equal(json, '{"city":"Bonn"}');
    const blocks = events.filter(({ type }) => type === 'content_block_start');
    assert.deepEqual(
      blocks.map(({ index, content_block: { type } }) => [index, type]),
      [
        [0, 'text'],
        [1, 'tool_use'],
      ],
    );
    assert.equal(events.at(-1).type, 'message_stop');
  });

  test('gives errors in its own shape, and counts tokens', async () => {
    await using server = await scripted('It rains.');
    const refused = await server.post('/v1/messages', base);
    assert.equal(refused.status, 400);
    assert.deepEqual(JSON.parse(refused.body), {
      type: 'error',
      error: {
        type: 'invalid_request_error',
        message: 'max_tokens: expected a whole number, it is missing',
      },
    });
    const counted = await server.post('/v1/messages/count_tokens', base);
    assert.deepEqual(JSON.parse(counted.body), { input_tokens: 9 });
  });
});

test('a suffix makes a completion fill in', async () => {
  await using server = await scripted('');
  const answer = await server.client.completions.create({
    model: 'echo',
    prompt: 'a',
    suffix: 'b',
    max_tokens: 11,
  });
  assert.equal(answer.choices[0]?.text, '<P>a<S>b<M>');
});

test('token ids come and go by the names of vLLM and of llama.cpp', async () => {
  await using server = await scripted('abc');
  const tokens = [104, 105];
  for (const [path, body, expected] of [
    ['/tokenize', { prompt: 'hi' }, { tokens, count: 2, max_model_len: 4096 }],
    ['/tokenize', { content: 'hi' }, { tokens, count: 2, max_model_len: 4096 }],
    ['/tokenize', { messages: QUESTION }, { tokens: [97, 98, 99], count: 3, max_model_len: 4096 }],
    ['/detokenize', { tokens }, { prompt: 'hi', content: 'hi' }],
  ] as const) {
    assert.deepEqual(JSON.parse((await server.post(path, body)).body), expected, path);
  }
  assert.equal((await server.post('/tokenize', {})).status, 400);
  const long = await server.post('/tokenize', { content: ' '.repeat(1_000_001) });
  assert.deepEqual([long.status, JSON.parse(long.body).error.param], [400, 'content']);
});

test('an answer says what it took, as llama.cpp does', async () => {
  await using server = await scripted('abc');
  const { body } = await server.post('/v1/completions', { prompt: 'abcd', max_tokens: 3 });
  const { timings } = JSON.parse(body);
  assert.equal(timings.prompt_n, 4);
  assert.equal(timings.predicted_n, 3);
  assert.equal(timings.predicted_per_second, 2000);
});

test('a request says who goes first, in its body or in a header', async () => {
  await using server = await scripted('abc');
  const body = { prompt: 'a', max_tokens: 1 };
  const { client } = server;
  await client.completions.create({ model: 'echo', ...body, ...{ priority: 'low' } });
  await client.completions.create(
    { model: 'echo', ...body },
    { headers: { 'x-priority': 'high' } },
  );
  assert.deepEqual(
    server.model.requests.map(({ priority }) => priority),
    ['low', 'high'],
  );
  assert.equal((await server.post('/v1/completions', { ...body, priority: 'urgent' })).status, 400);
});
