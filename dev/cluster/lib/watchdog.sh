# shellcheck shell=bash
# Waits until a process is gone, then takes the control plane down: watchdog.sh PID BORN CONTROL-PLANE DIR
. "$(dirname "${BASH_SOURCE[0]}")/process.sh"
while [ "$(process_born "$1")" = "$2" ] && [ -d "$4" ]; do sleep 0.5; done
exec env -u JAM_CONTROL_PLANE "$3" down "$4"
