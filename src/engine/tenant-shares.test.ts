import assert from 'node:assert/strict';
import test from 'node:test';
import { TenantShares } from './tenant-shares.ts';

test('a tenant that comes back starts level with the least served of the others', () => {
  const shares = new TenantShares();
  shares.enter('a');
  shares.charge('a', 500);
  shares.enter('b');
  assert.equal(shares.counter('b'), 500);
  shares.charge('b', 10);
  shares.leave('a');
  shares.charge('b', 1000);
  shares.enter('a');
  assert.equal(shares.counter('a'), 1510);
});

test('a tenant that had more than its share is not forgiven by a pause', () => {
  const shares = new TenantShares();
  shares.enter('light');
  shares.enter('heavy');
  shares.charge('heavy', 900);
  shares.leave('heavy');
  shares.enter('heavy');
  assert.equal(shares.counter('heavy'), 900);
});

test('tenants without requests are forgotten beyond a thousand', () => {
  const shares = new TenantShares();
  shares.enter('stays');
  for (let i = 0; i < 5000; i++) {
    shares.enter(`t${i}`);
    shares.charge(`t${i}`, 5 + i);
    shares.leave(`t${i}`);
  }
  assert.equal(shares.counter('t0'), 0);
  assert.equal(shares.counter('t4999'), 5004);
});
