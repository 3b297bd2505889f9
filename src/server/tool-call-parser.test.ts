import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ParsedPiece, ToolCallParser } from './tool-call-parser.ts';

const TOOLS = [
  {
    name: 'weather',
    parameters: {
      properties: {
        city: { type: 'string' },
        unit: { anyOf: [{ type: 'string' }, { type: 'null' }] },
        days: { type: ['integer', 'string'] },
        scale: { enum: ['C', 'F'] },
      },
    },
  },
  { name: 'time', parameters: null },
];

/** Pieces with neighbouring texts joined, as it makes no difference how text was cut. */
function parse(chunks: readonly string[]): ParsedPiece[] {
  const parser = new ToolCallParser(TOOLS);
  const pieces = [...chunks.flatMap((chunk) => parser.push(chunk)), ...parser.end()];
  const joined: ParsedPiece[] = [];
  for (const piece of pieces) {
    const last = joined.at(-1);
    if (piece.type === 'text' && last?.type === 'text') {
      joined[joined.length - 1] = { type: 'text', text: last.text + piece.text };
    } else joined.push(piece);
  }
  return joined;
}

const text = (content: string): ParsedPiece => ({ type: 'text', text: content });
const call = (name: string, args: object): ParsedPiece => ({
  type: 'call',
  name,
  arguments: JSON.stringify(args),
});
const weather = '{"name": "weather", "arguments": {"city": "Bonn"}}';

/** A call of GLM-4.5. */
const keyed = (name: string, args: Readonly<Record<string, string>>): string => {
  const given = Object.entries(args).map(
    ([key, value]) => `<arg_key>${key}</arg_key>\n<arg_value>${value}</arg_value>\n`,
  );
  return `<tool_call>${name}\n${given.join('')}</tool_call>`;
};

const CASES: readonly (readonly [string, readonly ParsedPiece[]])[] = [
  ['Hello < there <tool', [text('Hello < there <tool')]],
  [`<tool_call>\n${weather}\n</tool_call>`, [call('weather', { city: 'Bonn' })]],
  [
    `Let me see. <tool_call>${weather}</tool_call>\n<tool_call>{"name":"time","arguments":{}}</tool_call>`,
    [text('Let me see. '), call('weather', { city: 'Bonn' }), call('time', {})],
  ],
  [`<tool_call>${weather.slice(0, -1)}</tool_call>`, [call('weather', { city: 'Bonn' })]],
  [`<tool_call>${weather}`, [call('weather', { city: 'Bonn' })]],
  ['<tool_call>no JSON</tool_call> after', [text('<tool_call>no JSON</tool_call>after')]],
  [
    keyed('weather', { city: '5', unit: 'null', days: '3', scale: '1' }),
    [call('weather', { city: '5', unit: null, days: 3, scale: '1' })],
  ],
  [
    `So:\n${keyed('weather', { city: 'a "b"\n{', unit: '7', days: '1.5' })}\n${keyed('time', { zone: '1', at: 'noon', of: '[{"a": 1}]' })}`,
    [
      text('So:\n'),
      call('weather', { city: 'a "b"\n{', unit: '7', days: '1.5' }),
      call('time', { zone: 1, at: 'noon', of: [{ a: 1 }] }),
    ],
  ],
  ['<tool_call>time</tool_call>', [call('time', {})]],
  [
    '<tool_call>time<arg_key>__proto__</arg_key><arg_value>1</arg_value>',
    [{ type: 'call', name: 'time', arguments: '{"__proto__":1}' }],
  ],
  [keyed('other', { a: '1' }), [text(keyed('other', { a: '1' }))]],
  [
    '<tool_call>time\n<arg_key>zone</arg_key>\n<arg_value>Eu',
    [text('<tool_call>time\n<arg_key>zone</arg_key>\n<arg_value>Eu')],
  ],
  ['{"name": "time", "parameters": {"zone": 1}}', [call('time', { zone: 1 })]],
  [
    '<|python_tag|>{"name": "time", "parameters": {}}; {"name": "weather", "parameters": {}}',
    [call('time', {}), call('weather', {})],
  ],
  ['[TOOL_CALLS][{"name": "time", "arguments": {}}]', [call('time', {})]],
  ['Well: [TOOL_CALLS][{"name": "time", "arguments": {}}]', [text('Well: '), call('time', {})]],
  ['[{"name": "time", "arguments": {}}]', [call('time', {})]],
  ['[TOOL_CALLS]weather[ARGS]{"city": "Bonn"}', [call('weather', { city: 'Bonn' })]],
  [
    '[TOOL_CALLS]weather{"city": "{\\"}"}[TOOL_CALLS]time{}',
    [call('weather', { city: '{"}' }), call('time', {})],
  ],
  ['\nweather\n{"city": "Bonn"}', [call('weather', { city: 'Bonn' })]],
  ['weather\n{"city": "Bonn"}\ntime\n{}', [call('weather', { city: 'Bonn' }), call('time', {})]],
  ['weather\nis fine', [text('weather\nis fine')]],
  ['weather\n{"city": "Bonn"', [text('weather\n{"city": "Bonn"')]],
  ['weather\n{"city": "Bonn"} is it', [text('weather\n{"city": "Bonn"} is it')]],
  ['other\n{"city": "Bonn"}', [text('other\n{"city": "Bonn"}')]],
  ['Well [TOOL_CALLS] or [TOOL', [text('Well [TOOL_CALLS] or [TOOL')]],
  ['{"name": "unknown", "parameters": {}}', [text('{"name": "unknown", "parameters": {}}')]],
  ['{"answer": 42}', [text('{"answer": 42}')]],
  ['{', [text('{')]],
  ['', []],
];

test('calls are found in all formats, and what only looks like one stays text', () => {
  for (const [input, expected] of CASES) assert.deepEqual(parse([input]), expected, input);
});

test('wherever the text is cut, the pieces are the same', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...CASES),
      fc.array(fc.nat({ max: 100 }), { maxLength: 8 }),
      ([input, expected], cuts) => {
        const places = [0, ...cuts.map((cut) => cut % (input.length + 1)), input.length];
        places.sort((a, b) => a - b);
        const chunks = places.slice(1).map((end, i) => input.slice(places[i], end));
        assert.deepEqual(parse(chunks), expected);
      },
    ),
  );
});
