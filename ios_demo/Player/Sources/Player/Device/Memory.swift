import Foundation

#if os(iOS)
    import os
#endif

/// This process's memory, as the system counts it.
public enum ProcessMemory {
    /// Bytes now, and at most until now; 0 where the system does not say.
    public static var now: Int { both.now }
    public static var peak: Int { both.peak }

    /// Bytes that the system lets the process have beside what it has; nil where it does not say (other than iOS).
    public static var available: Int? {
        #if os(iOS)
            return Int(os_proc_available_memory())
        #else
            return nil
        #endif
    }

    #if canImport(Darwin)
        /// The footprint by which iOS ends processes: pages of files that were only read are not in it.
        private static var both: (now: Int, peak: Int) {
            var info = task_vm_info_data_t()
            var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
            let status = withUnsafeMutablePointer(to: &info) { pointer in
                pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            guard status == KERN_SUCCESS else { return (0, 0) }
            return (Int(info.phys_footprint), Int(info.ledger_phys_footprint_peak))
        }
    #else
        private static var both: (now: Int, peak: Int) {
            let lines =
                (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8))?.split(separator: "\n") ?? []
            func kilobytes(_ key: String) -> Int {
                let line = lines.first { $0.hasPrefix(key) }
                return line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).compactMap { Int($0) }.first ?? 0
            }
            return (kilobytes("VmRSS:") << 10, kilobytes("VmHWM:") << 10)
        }
    #endif
}
