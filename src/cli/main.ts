/**
 * Entry of the command line: hands argv to the program and turns what comes back into an exit code (0 done, 1 failed, 2 wrong usage).
 * Knows of the commands only which of them start an engine: its thread is set off at once, as it needs as long as the program does to be
 * loaded and to understand what is wanted.
 */
import { EngineHost } from '../app/engine-host.ts';
import { handleBrokenPipes } from './output.ts';

const ENGINE_COMMANDS = new Set(['run', 'chat']);

handleBrokenPipes();
const args = process.argv.slice(2);
const engineHost = ENGINE_COMMANDS.has(args[0] ?? '') ? new EngineHost() : undefined;
const { runProgram } = await import('./program.ts');
process.exitCode = await runProgram(args, { engineHost });
