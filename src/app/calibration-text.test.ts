import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CalibrationTooShortError } from '../compress/errors.ts';
import { byteTokenizer } from '../tokenizer/byte-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/contract.ts';
import { CalibrationTextError, calibrationWindows } from './calibration-text.ts';

/** Its chats are `<bos>`, then `role: content` by line. */
const tokenizer = byteTokenizer(259);
const text = (name: string, content: string, tokens: number, asChat = false) => ({
  ...{ name, content, tokens, window: 8, asChat },
});
const decoded = (windows: number[][]): string =>
  tokenizer.decode(windows.flat(), { skipSpecial: true });

describe('calibration text', () => {
  it('is cut into windows without gaps', () => {
    const windows = calibrationWindows(text('a.txt', 'abcdefghijklmnopqrstuvwxyz', 20), tokenizer);
    assert.deepEqual(
      windows.map((ids) => tokenizer.decode(ids)),
      ['abcdefgh', 'ijklmnop'],
    );
  });

  it('may be JSON lines with text or messages', () => {
    const lines = [
      JSON.stringify({ text: 'first' }),
      '',
      JSON.stringify({
        messages: [
          { role: 'user', content: 'why' },
          { role: 'assistant', content: 'so' },
        ],
      }),
    ].join('\n');
    const plain = calibrationWindows(text('a.jsonl', lines, 16), tokenizer);
    assert.equal(decoded(plain), 'first\n\nwhy\n\nso\n\n'.slice(0, 16));
    const chats = calibrationWindows(text('a.jsonl', lines, 24, true), tokenizer);
    // Two of the tokens are <bos>.
    assert.equal(decoded(chats), 'user: first\nuser: why\nassistant: so\n'.slice(0, 22));
  });

  it('turns plain text into messages if chats are asked for', () => {
    const content = `${'a'.repeat(1600)}\n${'b'.repeat(100)}`;
    const windows = calibrationWindows(text('a.txt', content, 1704, true), tokenizer);
    const whole = decoded(windows);
    assert.ok(whole.startsWith('user: aaa'));
    assert.ok(whole.includes('\nuser: bbb'), whole.slice(1600));
  });

  it('names the line that is no record, a missing template, and a text that is too short', () => {
    const fails = (name: string, content: string, message: RegExp) =>
      assert.throws(
        () => calibrationWindows(text(name, content, 8), tokenizer),
        (error: unknown) => error instanceof CalibrationTextError && message.test(error.message),
      );
    fails('a.jsonl', '{"text":"x"}\n{"txt":1}', /a\.jsonl:2: has neither/);
    fails('a.jsonl', 'nonsense', /a\.jsonl:1: is not valid JSON/);
    const withoutTemplate = { chatTemplate: null } as Tokenizer;
    assert.throws(
      () => calibrationWindows(text('a.txt', 'plain', 8, true), withoutTemplate),
      /no chat template/,
    );
    assert.throws(
      () => calibrationWindows(text('a.txt', 'abc', 8), tokenizer),
      CalibrationTooShortError,
    );
  });
});
