/** The events of a streamed response, one by one, as OpenAI's clients expect them: what each has, and in which order they come. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { EchoModel, type EchoModelOptions } from './testing/echo-model.ts';
import { startTestServer } from './testing/running-server.ts';

interface StreamedEvent {
  readonly type: string;
  readonly sequence_number: number;
  readonly [field: string]: unknown;
}

const CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>';
const TOOLS = [{ type: 'function', name: 'weather', parameters: { type: 'object' } }];

async function streamed(options: EchoModelOptions, body: object): Promise<StreamedEvent[]> {
  await using server = await startTestServer(new EchoModel(options));
  const response = await fetch(`${server.url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ input: 'Hi', stream: true, ...body }),
  });
  assert.equal(response.status, 200);
  const blocks = (await response.text()).split('\n\n').filter((block) => block !== '');
  return blocks.map((block, index) => {
    const [, kind, data] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
    const event = JSON.parse(data!) as StreamedEvent;
    assert.equal(event.type, kind, 'the event is named twice');
    assert.equal(event.sequence_number, index);
    return event;
  });
}

/** Each kind once, with how often it came in a row. */
function kindsOf(events: readonly StreamedEvent[]): string[] {
  const kinds: string[] = [];
  for (const { type } of events) if (kinds.at(-1) !== type) kinds.push(type);
  return kinds;
}

const MESSAGE = [
  'response.output_item.added',
  'response.content_part.added',
  'response.output_text.delta',
  'response.output_text.done',
  'response.content_part.done',
  'response.output_item.done',
];
const CALLED = [
  'response.output_item.added',
  'response.function_call_arguments.delta',
  'response.function_call_arguments.done',
  'response.output_item.done',
];

describe('a streamed response', () => {
  // The echo model answers as much as it is let: every answer of its own is cut.
  test('cut by max_output_tokens', async () => {
    const events = await streamed({ script: 'Hello' }, { max_output_tokens: 5 });
    assert.deepEqual(kindsOf(events), [
      'response.created',
      'response.in_progress',
      ...MESSAGE,
      'response.incomplete',
    ]);
    const { response } = events.at(-1) as unknown as { response: Record<string, unknown> };
    assert.equal(response.status, 'incomplete');
    assert.deepEqual(response.incomplete_details, { reason: 'max_output_tokens' });
    const [item] = response.output as { id: string; content: { text: string }[] }[];
    assert.equal(item?.content[0]?.text, 'Hello');
    const deltas = events.filter(({ type }) => type === 'response.output_text.delta');
    assert.equal(deltas.map(({ delta }) => delta).join(''), 'Hello');
    for (const event of deltas) {
      const { item_id, output_index, content_index, logprobs } = event;
      assert.deepEqual([item_id, output_index, content_index, logprobs], [item?.id, 0, 0, []]);
    }
    const ids = events.flatMap(
      ({ response }) => (response as { id: string } | undefined)?.id ?? [],
    );
    assert.equal(new Set(ids).size, 1);
  });

  test('that comes to its end', async () => {
    const script = 'Hello';
    const events = await streamed({ script, endsAfter: script.length }, {});
    assert.deepEqual(kindsOf(events), [
      'response.created',
      'response.in_progress',
      ...MESSAGE,
      'response.completed',
    ]);
    const { response } = events.at(-1) as unknown as { response: Record<string, unknown> };
    assert.deepEqual(
      [response.status, response.error, response.incomplete_details],
      ['completed', null, null],
    );
    const usage = response.usage as Record<string, number>;
    assert.deepEqual(Object.keys(usage).toSorted(), [
      'input_tokens',
      'input_tokens_details',
      'output_tokens',
      'output_tokens_details',
      'total_tokens',
    ]);
    assert.equal(usage.output_tokens, 5);
  });

  test('of a text and a call', async () => {
    const script = `Let me see.${CALL}`;
    const events = await streamed({ script, endsAfter: script.length }, { tools: TOOLS });
    assert.deepEqual(kindsOf(events), [
      'response.created',
      'response.in_progress',
      ...MESSAGE,
      ...CALLED,
      'response.completed',
    ]);
    const done = events.find(({ type }) => type === 'response.function_call_arguments.done')!;
    assert.deepEqual([done.output_index, done.name], [1, 'weather']);
    assert.deepEqual(JSON.parse(done.arguments as string), { city: 'Bonn' });
    const { item } = events.findLast(({ type }) => type === 'response.output_item.done')!;
    const { type, call_id, status, id } = item as Record<string, string>;
    assert.deepEqual([type, status, id], ['function_call', 'completed', done.item_id]);
    assert.match(call_id!, /^call_/);
  });

  test('that fails in the middle', async () => {
    const events = await streamed({ script: 'Hello', failAfter: 2 }, {});
    assert.equal(events.at(-1)?.type, 'response.failed');
    const { response } = events.at(-1) as unknown as { response: Record<string, unknown> };
    assert.equal(response.status, 'failed');
    assert.ok((response.error as { code: string }).code);
  });
});
