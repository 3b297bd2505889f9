import assert from 'node:assert/strict';
import { Buffer } from 'node:buffer';
import { describe, it } from 'node:test';
import { StringList } from './string-list.ts';

const TEXTS = ['', 'a', 'Ġthe', '\u2581', '🦊', 'a', 'x'.repeat(300), 'nul \0 inside', ''];

/** As GGUF writes strings: u64 length, bytes. */
function block(strings: readonly Uint8Array[]): { bytes: Buffer; starts: Uint32Array } {
  const starts = new Uint32Array(strings.length + 1);
  const parts: Uint8Array[] = [];
  let at = 8;
  for (const [i, text] of strings.entries()) {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    parts.push(length, text);
    starts[i] = at;
    at += text.length + 8;
  }
  starts[strings.length] = at;
  return { bytes: Buffer.concat(parts), starts };
}

describe('a list of strings', () => {
  it('gives back what it was made of, from strings and from a block alike', () => {
    const { bytes, starts } = block(TEXTS.map((text) => Buffer.from(text)));
    for (const list of [StringList.of(TEXTS), StringList.over(bytes, starts)]) {
      assert.equal(list.length, TEXTS.length);
      assert.deepEqual([...list], TEXTS);
      assert.deepEqual(
        TEXTS.map((_, i) => list.at(i)),
        TEXTS,
      );
      for (const outside of [-1, 0.5, TEXTS.length]) assert.equal(list.at(outside), undefined);
    }
  });

  it('has no strings where it was made of none', () => {
    const empty = StringList.over(Buffer.alloc(0), new Uint32Array([8]));
    assert.deepEqual([[...empty], empty.find(['a']).size], [[], 0]);
    assert.deepEqual([...StringList.of([])], []);
  });

  it('replaces bytes that are no UTF-8, also a character that is cut by the end of a string', () => {
    const [lead, tail] = [Buffer.from([0x61, 0xc3]), Buffer.from([0xa9, 0x62])];
    const { bytes, starts } = block([lead, tail, Buffer.from('ok')]);
    const list = StringList.over(bytes, starts);
    assert.deepEqual([...list], ['a\ufffd', '\ufffdb', 'ok']);
    assert.equal(Buffer.from(list.bytes).toString('utf8').includes('\ufffd'), true);
  });

  it('finds texts at all of their places and at no other', () => {
    const found = StringList.of(TEXTS).find(['a', '🦊', 'the', 'x'.repeat(300), '']);
    assert.deepEqual(
      [...found],
      [
        ['', [0, 8]],
        ['a', [1, 5]],
        ['🦊', [4]],
        ['x'.repeat(300), [6]],
      ],
    );
  });
});
