/** The most memory that this process had in use. */
import { readFileSync } from 'node:fs';

/**
 * Bytes of the largest resident set so far. On Linux of this program alone (VmHWM of proc_pid_status(5)); getrusage's maximum there has that of the process that
 * started it, too.
 */
export function peakBytes(): number {
  if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
  return 1024 * Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
}
