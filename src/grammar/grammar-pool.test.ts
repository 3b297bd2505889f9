/** Many grammars, bad ones among them, on few workers. Masks themselves are tested with the engine (`engine/structured.test.ts`). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { GrammarSession } from './grammar-host.ts';
import { GrammarPool, NO_DRAFTS } from './grammar-pool.ts';
import type { GrammarSpec } from './grammar-spec.ts';
import { byteVocabulary, EOS_ID } from './testing/byte-vocabulary.ts';

const regex = (pattern: string): GrammarSpec => ({ type: 'regex', regex: pattern });
const idsOf = (text: string): Int32Array => Int32Array.from(Buffer.from(text));

/** What may follow an output, as text; `$` for the end. */
function following(pool: GrammarPool, session: GrammarSession, output: string): string {
  pool.ask({ session, output: idsOf(output), drafts: NO_DRAFTS, row: 0 });
  pool.send();
  pool.wait();
  const mask = pool.mask(session, 0);
  const ids = Array.from({ length: 128 }, (_, id) => id).filter((id) => isSet(mask, id));
  return Buffer.from(ids).toString() + (isSet(mask, EOS_ID) ? '$' : '');
}

function isSet(mask: Int32Array, id: number): boolean {
  return ((mask[id >> 5]! >>> (id & 31)) & 1) === 1;
}

describe('a pool of grammars', () => {
  it('keeps more grammars apart than it has workers', async () => {
    using pool = new GrammarPool(byteVocabulary(), 8);
    const letters = [...'abcdefgh'];
    const sessions = await Promise.all(letters.map((letter) => pool.open(regex(`${letter}x*`))));
    for (const [i, session] of sessions.entries()) {
      assert.equal(following(pool, session, ''), letters[i]);
      assert.equal(following(pool, session, letters[i]!), 'x$');
      assert.equal(following(pool, session, `${letters[i]}xx`), 'x$');
    }
    // In one step, each in rows of its own, drafts among them.
    for (const [i, session] of sessions.slice(0, 4).entries()) {
      pool.ask({ session, output: idsOf(`${letters[i]}xxx`), drafts: idsOf('x'), row: 2 * i });
    }
    pool.send();
    pool.wait();
    for (const [i, session] of sessions.slice(0, 4).entries()) {
      for (const row of [2 * i, 2 * i + 1]) assert.ok(isSet(pool.mask(session, row), 120));
    }
    for (const session of sessions) pool.close(session);
  });

  it('says how many drafts may come, and goes on from before them', async () => {
    using pool = new GrammarPool(byteVocabulary(), 4);
    const session = await pool.open(regex('abc(d|e)'));
    assert.equal(pool.check(session, idsOf(''), idsOf('abx')), 2);
    assert.equal(pool.check(session, idsOf('a'), idsOf('bcd')), 3);
    assert.equal(pool.check(session, idsOf('ab'), idsOf('x')), 0);
    const ended = Int32Array.of(...idsOf('ce'), EOS_ID, 97);
    assert.equal(pool.check(session, idsOf('ab'), ended), 3);
    assert.equal(following(pool, session, 'abc'), 'de');
    assert.equal(following(pool, session, 'abce'), '$');
  });

  it('goes on with all texts of a worker that one of them was the end of', async () => {
    using pool = new GrammarPool(byteVocabulary(), 4);
    const spec = regex('[ab]*c');
    const [good, bad] = [await pool.open(spec), await pool.open(spec)];
    assert.equal(following(pool, good, 'ab'), 'abc');
    const asks = [
      { session: good, output: idsOf('aba'), drafts: NO_DRAFTS, row: 0 },
      // A token that its grammar does not take stands for whatever may be wrong with a worker.
      { session: bad, output: idsOf('z'), drafts: NO_DRAFTS, row: 1 },
    ];
    for (const ask of asks) pool.ask(ask);
    pool.send();
    pool.wait();
    assert.throws(() => pool.mask(bad, 1), { code: 'invalid_grammar' });
    assert.ok(isSet(pool.mask(good, 0), 99));
    assert.equal(following(pool, good, 'abac'), '$');
  });

  it('tells those who wait beside a refused grammar nothing of it', async () => {
    using pool = new GrammarPool(byteVocabulary(), 4);
    const results = await Promise.allSettled(
      ['a', '(', 'b', '[', 'c', '(', 'd', 'e', 'f'].map((pattern) => pool.open(regex(pattern))),
    );
    assert.deepEqual(
      results.map(({ status }) => status === 'fulfilled'),
      [true, false, true, false, true, false, true, true, true],
    );
  });
});
