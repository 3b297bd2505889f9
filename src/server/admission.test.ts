import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Admission, type AdmissionLimits, DEFAULT_ADMISSION_LIMITS } from './admission.ts';
import { ApiError } from './errors.ts';

function admissionOf(limits: Partial<AdmissionLimits>, clock = { ms: 0 }) {
  const rejections: string[] = [];
  const admission = new Admission({
    limits: { ...DEFAULT_ADMISSION_LIMITS, ...limits },
    maxRunning: () => 2,
    typicalRequestMs: () => 3000,
    onRejected: (reason) => rejections.push(reason),
    now: () => clock.ms,
  });
  return { admission, rejections, clock };
}

function refusal(action: () => unknown): ApiError {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof ApiError);
    return error;
  }
  assert.fail('it was let in');
}

describe('admission', () => {
  test('lets in what runs and what may wait, and refuses the rest with a time to wait', () => {
    const { admission, rejections } = admissionOf({ maxQueue: 1 });
    const release = admission.admit('a', 2);
    admission.admit('b', 1);
    const refused = refusal(() => admission.admit('c', 1));
    assert.equal(refused.status, 429);
    assert.equal(refused.apiCode, 'queue_full');
    assert.equal(refused.headers['retry-after'], '2'); // 3 s for one of two places
    assert.deepEqual(rejections, ['queue_full']);
    release();
    admission.admit('c', 1);
    assert.equal(admission.numAdmitted, 2);
  });

  test('says 400 to what can never fit', () => {
    const { admission } = admissionOf({ maxQueue: 1 });
    const refused = refusal(() => admission.admit('a', 4));
    assert.equal(refused.status, 400);
    assert.match(refused.message, /4 answers, but the server takes 3/);
  });

  test('keeps one key from taking more than its share at once', () => {
    const { admission } = admissionOf({ maxConcurrencyPerKey: 1 });
    const release = admission.admit('a', 1);
    assert.equal(refusal(() => admission.admit('a', 1)).apiCode, 'key_concurrency');
    admission.admit('b', 1);
    release();
    admission.admit('a', 1);
  });

  test('earns requests back with time, up to a minute of them', () => {
    const { admission, clock } = admissionOf({ requestsPerMinutePerKey: 2 });
    admission.admit('a', 1)();
    admission.admit('a', 1)();
    const refused = refusal(() => admission.admit('a', 1));
    assert.equal(refused.apiCode, 'key_rate');
    assert.equal(refused.headers['retry-after'], '30');
    clock.ms += 30_000;
    admission.admit('a', 1)();
    refusal(() => admission.admit('a', 1));
    clock.ms += 3_600_000;
    for (let i = 0; i < 2; i++) admission.admit('a', 1)();
    refusal(() => admission.admit('a', 1));
  });
});
