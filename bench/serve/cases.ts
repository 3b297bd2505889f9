/** The loads that servers are compared under. Plain data; knows nothing of servers. */

export interface ServeCase {
  readonly name: string;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Of the prompt, equal in all requests. */
  readonly sharedTokens: number;
  readonly numRequests: number;
  readonly load: CaseLoad;
}

/** `closed`: so many clients. `open`: Poisson arrivals, at a share of what the best peer reached with `of` (the name of a closed case). */
export type CaseLoad =
  | { readonly kind: 'closed'; readonly clients: number }
  | { readonly kind: 'open'; readonly share: number; readonly of: string };

const PLAIN = { promptTokens: 190, outputTokens: 64, sharedTokens: 0 };
const SHARED = { promptTokens: 600, outputTokens: 64, sharedTokens: 470 };

/** Enough requests that the start and the end, when not all clients are busy, weigh little: three a client, at least twelve. */
function requestsFor(clients: number, scale: number): number {
  return Math.max(clients, Math.round(Math.max(12, 3 * clients) * scale));
}

/** @param scale of the number of requests */
export function serveCases(clients: readonly number[], scale: number): ServeCase[] {
  const closed = (work: typeof PLAIN, count: number): ServeCase => ({
    ...work,
    name: `${caseWork(work)}, ${count} client${count === 1 ? '' : 's'}`,
    numRequests: requestsFor(count, scale),
    load: { kind: 'closed', clients: count },
  });
  const plain = clients.map((count) => closed(PLAIN, count));
  const busiest = plain.find(({ load }) => load.kind === 'closed' && load.clients === 16);
  const open = [0.5, 0.9].flatMap((share): ServeCase[] =>
    busiest === undefined
      ? []
      : [
          {
            ...PLAIN,
            name: `${caseWork(PLAIN)}, ${100 * share}% of the peer's rate`,
            numRequests: busiest.numRequests,
            load: { kind: 'open', share, of: busiest.name },
          },
        ],
  );
  return [...plain, closed(SHARED, 16), ...open];
}

function caseWork({ promptTokens, outputTokens, sharedTokens }: typeof PLAIN): string {
  const shared = sharedTokens > 0 ? ` (${sharedTokens} shared)` : '';
  return `${promptTokens}${shared} + ${outputTokens}`;
}

/** Streams that a server has to hold at once; an open load is given as many as a closed one of 16. */
export function streamsOf({ load }: ServeCase): number {
  return load.kind === 'closed' ? load.clients : 16;
}
