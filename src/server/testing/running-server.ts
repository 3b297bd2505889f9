/** A running server with a silent log, for tests. */
import { pino } from 'pino';
import type { TextModel } from '../../app/text-model.ts';
import { HttpServer, type ServerOptions } from '../server.ts';

export interface TestServer extends AsyncDisposable {
  readonly server: HttpServer;
  readonly url: string;
  readonly port: number;
  /** Log lines at `warn` and above. */
  readonly logLines: string[];
}

export async function startTestServer(
  model?: TextModel,
  options: Partial<ServerOptions> = {},
): Promise<TestServer> {
  const logLines: string[] = [];
  const logger = pino({ level: 'warn' }, { write: (line) => void logLines.push(line) });
  const server = new HttpServer({ host: '127.0.0.1', port: 0, logger, ...options });
  if (model) server.served.setState({ kind: 'ready', model, names: [model.name, 'alias'] });
  const url = await server.listen();
  const port = Number(new URL(url).port);
  return { server, url, port, logLines, [Symbol.asyncDispose]: () => server.close(0) };
}
