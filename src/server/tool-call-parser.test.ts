import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ParsedPiece, ToolCallParser } from './tool-call-parser.ts';

/** Pieces with neighbouring texts joined, as it makes no difference how text was cut. */
function parse(chunks: readonly string[]): ParsedPiece[] {
  const parser = new ToolCallParser(['weather', 'time']);
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
