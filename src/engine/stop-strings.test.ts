import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { StopStrings } from './stop-strings.ts';

function shown(stops: string[], pieces: string[]): { text: string; stop: string | null } {
  const watcher = new StopStrings(stops);
  let text = '';
  for (const piece of pieces) {
    const result = watcher.push(piece);
    text += result.text;
    if (result.stop !== null) return { text, stop: result.stop };
  }
  return { text: text + watcher.end(), stop: null };
}

test('a stop string over several pieces is never shown in part', () => {
  const watcher = new StopStrings(['</end>']);
  assert.deepEqual(watcher.push('text <'), { text: 'text ', stop: null });
  assert.deepEqual(watcher.push('/en'), { text: '', stop: null });
  assert.deepEqual(watcher.push('d> more'), { text: '', stop: '</end>' });
});

test('text that only looked like a stop string is released', () => {
  assert.deepEqual(shown(['aab'], ['aa', 'a', 'c']), { text: 'aaac', stop: null });
  assert.deepEqual(shown(['aab'], ['a', 'a']), { text: 'aa', stop: null });
  assert.deepEqual(shown(['aab'], ['aa', 'ab']), { text: 'a', stop: 'aab' });
});

test('the first complete stop string ends the text, the longest where two are complete', () => {
  assert.deepEqual(shown(['bc', 'abcd'], ['abcd']), { text: 'a', stop: 'bc' });
  assert.deepEqual(shown(['c', 'abc'], ['xabc']), { text: 'x', stop: 'abc' });
});

test('the cut of the text into pieces makes no difference, and the first occurrence counts', () => {
  const letters = (maxLength: number) =>
    fc.array(fc.constantFrom('a', 'b', '🙂'), { minLength: 1, maxLength }).map((l) => l.join(''));
  fc.assert(
    fc.property(
      fc.array(letters(4), { minLength: 1, maxLength: 4 }),
      fc.array(letters(3), { maxLength: 12 }),
      (stops, pieces) => {
        const text = pieces.join('');
        let expected: { text: string; stop: string | null } = { text, stop: null };
        for (let end = 1; end <= text.length && expected.stop === null; end++) {
          const complete = stops.filter((stop) => text.slice(0, end).endsWith(stop));
          complete.sort((a, b) => b.length - a.length);
          const stop = complete[0];
          if (stop !== undefined) expected = { text: text.slice(0, end - stop.length), stop };
        }
        assert.deepEqual(shown(stops, pieces), expected);
        assert.deepEqual(shown(stops, [text]), expected);
      },
    ),
    { numRuns: 500 },
  );
});
