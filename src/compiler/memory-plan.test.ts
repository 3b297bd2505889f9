import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type BufferRequest, planMemory } from './memory-plan.ts';

const requestsOf = (maxLength: number) =>
  fc.array(
    fc
      .record({
        sizeBytes: fc.integer({ min: 1, max: 5000 }),
        first: fc.integer({ min: 0, max: 40 }),
        length: fc.integer({ min: 0, max: 20 }),
      })
      .map(({ sizeBytes, first, length }) => ({ sizeBytes, first, last: first + length })),
    { maxLength },
  );

const padded = ({ sizeBytes }: BufferRequest): number => Math.ceil(sizeBytes / 64) * 64;
const liveAt = (requests: readonly BufferRequest[], command: number) =>
  requests.filter(({ first, last }) => first <= command && command <= last);

describe('memory plan', () => {
  it('never lets two buffers that live at once share a byte', () => {
    fc.assert(
      fc.property(requestsOf(40), (requests) => {
        const { offsets } = planMemory(requests);
        for (const [i, a] of requests.entries()) {
          for (const [j, b] of requests.entries()) {
            if (i === j || a.first > b.last || b.first > a.last) continue;
            const apart =
              offsets[i]! + a.sizeBytes <= offsets[j]! || offsets[j]! + b.sizeBytes <= offsets[i]!;
            assert.ok(apart, `buffers ${i} and ${j}`);
          }
        }
      }),
    );
  });

  it('aligns to 64 bytes, stays inside the arena, and needs no more than all buffers apart', () => {
    fc.assert(
      fc.property(requestsOf(40), (requests) => {
        const { offsets, arenaBytes } = planMemory(requests);
        for (const [i, { sizeBytes }] of requests.entries()) {
          assert.equal(offsets[i]! % 64, 0);
          assert.ok(offsets[i]! >= 0 && offsets[i]! + sizeBytes <= arenaBytes);
        }
        assert.ok(arenaBytes <= requests.reduce((sum, request) => sum + padded(request), 0));
        // And no less than what lives at once.
        for (let command = 0; command <= 60; command++) {
          const live = liveAt(requests, command).reduce((sum, request) => sum + padded(request), 0);
          assert.ok(arenaBytes >= live);
        }
      }),
    );
  });

  it('gives a chain of equal buffers two places', () => {
    const chain = Array.from({ length: 30 }, (_, i) => ({
      sizeBytes: 1000,
      first: i,
      last: i + 1,
    }));
    assert.equal(planMemory(chain).arenaBytes, 2 * 1024);
  });

  it('needs nothing for nothing', () => {
    assert.deepEqual(planMemory([]), { offsets: [], arenaBytes: 0 });
  });
});
