import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { PRIORITIES, type Priority } from './priority.ts';
import { prepareRequest } from './request.ts';
import { Sequence } from './sequence.ts';
import { TenantShares } from './tenant-shares.ts';
import { byteTokenizer } from './testing/byte-decoder.ts';
import { WaitingQueue } from './waiting-queue.ts';

const LIMITS = { vocabSize: 9, maxModelLen: 100, numBlocks: 100, blockSize: 4 };

function setUp() {
  const shares = new TenantShares();
  const queue = new WaitingQueue(shares, 100);
  let order = 0;
  const add = (priority: Priority, tenant = '', sink = 0, waitingSinceMs = 0): Sequence => {
    const request = prepareRequest({ promptTokenIds: [1], priority, tenant }, LIMITS);
    const sequence = new Sequence(request, byteTokenizer, waitingSinceMs);
    sequence.order = ++order;
    sequence.sink = sink;
    sequence.waitingSinceMs = waitingSinceMs;
    shares.enter(tenant);
    queue.push(sequence);
    return sequence;
  };
  const takeAll = (nowMs: number): Sequence[] => {
    const taken: Sequence[] = [];
    for (let next = queue.best(nowMs); next !== null; next = queue.best(nowMs)) {
      queue.remove(next);
      taken.push(next);
    }
    return taken;
  };
  return { shares, queue, add, takeAll };
}

test('classes come in order, in a class those that have not sunk, then by arrival', () => {
  const { add, takeAll, queue } = setUp();
  const low = add('low');
  const sunk = add('normal', '', 2);
  const normals = [add('normal'), add('normal')];
  const sunkHigh = add('high', '', 2);
  const high = add('high');
  assert.deepEqual(takeAll(0), [high, sunkHigh, ...normals, sunk, low]);
  assert.equal(queue.length, 0);
});

test('what has sunk climbs while it waits, to where its class starts', () => {
  const { add, takeAll } = setUp();
  const sunk = add('normal', '', 2, 0);
  const fresh = add('normal', '', 0, 150);
  const high = add('high', '', 0, 150);
  assert.deepEqual(takeAll(150), [high, fresh, sunk]);
  const again = setUp();
  const waited = again.add('normal', '', 2, 0);
  const later = again.add('normal', '', 0, 150);
  assert.deepEqual(again.takeAll(200), [waited, later]);
});

test('tenants take turns by what they have had', () => {
  const { add, shares, queue } = setUp();
  const many = Array.from({ length: 4 }, () => add('normal', 'many'));
  const few = [add('normal', 'few'), add('normal', 'few')];
  const taken: Sequence[] = [];
  for (let next = queue.best(0); next !== null; next = queue.best(0)) {
    queue.remove(next);
    taken.push(next);
    shares.charge(next.tenant, next.tenant === 'many' ? 10 : 15);
  }
  assert.deepEqual(taken, [many[0], few[0], many[1], few[1], many[2], many[3]]);
});

test('nothing is lost and nothing comes twice, whatever is taken out in between', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          priority: fc.constantFrom(...PRIORITIES),
          tenant: fc.constantFrom('', 'a', 'b'),
          sink: fc.nat({ max: 2 }),
          isTakenOut: fc.boolean(),
          isFirst: fc.boolean(),
        }),
        { maxLength: 20 },
      ),
      (plans) => {
        const { add, queue, takeAll } = setUp();
        const added = plans.map(({ priority, tenant, sink }) => add(priority, tenant, sink));
        for (const [i, { isTakenOut, isFirst }] of plans.entries()) {
          if (!isTakenOut && !isFirst) continue;
          assert.equal(queue.remove(added[i]!), true);
          assert.equal(queue.remove(added[i]!), false);
          if (isFirst) queue.unshift(added[i]!);
        }
        const expected = added.filter((_, i) => plans[i]!.isFirst || !plans[i]!.isTakenOut);
        assert.equal(queue.length, expected.length);
        assert.deepEqual(new Set(takeAll(0)), new Set(expected));
      },
    ),
  );
});
