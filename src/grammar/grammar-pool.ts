/**
 * The grammars of an engine: opens them, says which tokens may come, and replaces workers that failed. Knows nothing of requests and steps
 * beyond their tokens.
 *
 * A grammar that no worker knows is compiled where no text waits for masks: an invalid one ends its worker (see `compiler.ts`), a large one
 * holds it up. Where all workers have texts, it is tried on one more first.
 */
import { createHash } from 'node:crypto';
import { GrammarError } from './errors.ts';
import { type GrammarAsk, GrammarHost, type GrammarSession } from './grammar-host.ts';
import type { GrammarSpec } from './grammar-spec.ts';
import type { GrammarVocabulary } from './vocabulary.ts';

/** Workers that texts live on; each holds the vocabulary, 20 to 100 MB. */
const MAX_HOSTS = 3;
/** Grammars remembered as refused. */
const MAX_REFUSED = 256;
/** Workers that may be lost to others' grammars before one gives up. */
const MAX_TRIES = 4;

export class GrammarPool implements Disposable {
  readonly #vocabulary: GrammarVocabulary;
  readonly #numRows: number;
  #hosts: GrammarHost[] = [];
  /** Where grammars are tried when all others are in use. */
  #scout: GrammarHost | null = null;
  /** Reasons by key. */
  readonly #refused = new Map<string, string>();
  #lastSessionId = 0;
  #asks: GrammarAsk[] = [];

  /** @param numRows most rows of logits in a step */
  constructor(vocabulary: GrammarVocabulary, numRows: number) {
    this.#vocabulary = vocabulary;
    this.#numRows = numRows;
  }

  /**
   * Compiles a grammar, or finds it compiled, and begins a text under it. Close it in the end.
   *
   * @throws {GrammarError} if the grammar is not sound, or takes too long
   */
  async open(spec: GrammarSpec): Promise<GrammarSession> {
    const key = createHash('sha256').update(JSON.stringify(spec)).digest('base64');
    let reason = '';
    for (let i = 0; i < MAX_TRIES; i++) {
      const refusal = this.#refused.get(key);
      if (refusal !== undefined) throw new GrammarError(refusal);
      const host = this.#hostFor(key) ?? (await this.#tried(spec, key));
      if (host === null) continue;
      const session = this.#session(spec, key, host);
      const result = await host.open(session);
      if (result.type === 'opened') return session;
      reason = result.reason;
      if (result.type === 'refused') this.#refuse(key, reason);
    }
    throw new GrammarError(reason);
  }

  close(session: GrammarSession): void {
    session.host.close(session);
  }

  /** Asks for the masks of the next step. `output` and `drafts` must stay as they are until `wait`. */
  ask(ask: GrammarAsk): void {
    if (ask.session.failure === null) this.#asks.push(ask);
  }

  /** Sends what was asked for: the workers find it out while the step runs. */
  send(): void {
    for (const { session } of this.#asks) this.#settleIn(session);
    for (const host of this.#askedHosts()) {
      host.send(
        'fill',
        this.#asks.filter(({ session }) => session.host === host),
      );
    }
  }

  /** Waits for what was sent. Sessions may have failed then. */
  wait(): void {
    while (this.#asks.length > 0) {
      const lost: GrammarAsk[] = [];
      for (const host of this.#askedHosts()) {
        const result = host.wait();
        if (result.type === 'done') continue;
        lost.push(...this.#asks.filter(({ session }) => session.host === host));
        this.#lose(
          host,
          lost.map(({ session }) => session),
          result.sessionId,
          result.reason,
        );
      }
      this.#asks = lost.filter(({ session }) => session.failure === null);
      if (this.#asks.length > 0) this.send();
    }
  }

  /**
   * What may come at a row of the last step: bit i is token i. i32 `[maskWords]`
   * @throws {GrammarError} if the session has failed
   */
  mask(session: GrammarSession, row: number): Int32Array {
    if (session.failure !== null) throw session.failure;
    return session.host.mask(row);
  }

  /** How many of the drafts may follow the output. Holds the thread for some microseconds. */
  check(session: GrammarSession, output: Int32Array, drafts: Int32Array): number {
    if (session.failure !== null) return 0;
    this.#settleIn(session);
    const { host } = session;
    host.send('check', [{ session, output, drafts, row: 0 }]);
    const result = host.wait();
    if (result.type === 'done') return result.numAccepted;
    this.#lose(host, [session], session.sessionId, result.reason);
    return 0;
  }

  [Symbol.dispose](): void {
    for (const host of [...this.#hosts, this.#scout]) host?.discard('the engine ends');
  }

  #session(spec: GrammarSpec, key: string, host: GrammarHost): GrammarSession {
    return { sessionId: ++this.#lastSessionId, spec, key, host, numSent: 0, failure: null };
  }

  /** A worker that knows the grammar, or one on which nobody is held up by it; `null` if there is none. */
  #hostFor(key: string): GrammarHost | null {
    this.#hosts = this.#hosts.filter(({ isBroken }) => !isBroken);
    const fitting =
      this.#hosts.find((host) => host.knows(key)) ??
      this.#hosts.find(({ numSessions }) => numSessions === 0);
    if (fitting !== undefined) return fitting;
    if (this.#hosts.length >= MAX_HOSTS) return null;
    const host = new GrammarHost(this.#vocabulary, this.#numRows);
    this.#hosts.push(host);
    return host;
  }

  /** The worker with the fewest texts, once the grammar has shown elsewhere that it can be compiled; `null` if that is to be tried again. */
  async #tried(spec: GrammarSpec, key: string): Promise<GrammarHost | null> {
    if (this.#scout === null || this.#scout.isBroken) {
      this.#scout = new GrammarHost(this.#vocabulary, 0);
    }
    const scout = this.#scout;
    const session = this.#session(spec, key, scout);
    const result = await scout.open(session);
    if (result.type === 'refused') this.#refuse(key, result.reason);
    if (result.type !== 'opened') return null;
    scout.close(session);
    return this.#hostFor(key) ?? this.#idlest();
  }

  #idlest(): GrammarHost {
    return this.#hosts.reduce((best, host) => (host.numSessions < best.numSessions ? host : best));
  }

  #refuse(key: string, reason: string): void {
    this.#refused.set(key, reason);
    if (this.#refused.size > MAX_REFUSED) this.#refused.delete(this.#refused.keys().next().value!);
  }

  /** Gives a session whose worker is gone another one. */
  #settleIn(session: GrammarSession): void {
    if (!session.host.isBroken) return;
    (this.#hostFor(session.key) ?? this.#idlest()).adopt(session);
  }

  /** Gives up a worker and the session that was its end; its others will be adopted. */
  #lose(host: GrammarHost, sessions: GrammarSession[], culprit: number, reason: string): void {
    host.discard('another grammar failed');
    const session = sessions.find(({ sessionId }) => sessionId === culprit) ?? sessions[0];
    if (session === undefined) return;
    this.#refuse(session.key, reason);
    session.failure = new GrammarError(reason);
  }

  #askedHosts(): Set<GrammarHost> {
    return new Set(this.#asks.map(({ session }) => session.host));
  }
}

/** For a session without drafts. */
export const NO_DRAFTS = new Int32Array();
