/* fault.h - points at which a test can end the process, or change what it shares with others.
 *
 * Nothing at all unless built with CWASI_FAULTS; then whoever is linked with it brings the function along.
 */
#ifndef CWASI_FAULT_H
#define CWASI_FAULT_H

#ifdef CWASI_FAULTS
void fault_passed(const char *label);
#define FAULT_POINT(label) fault_passed(#label)
#else
#define FAULT_POINT(label) ((void)0)
#endif

#endif
