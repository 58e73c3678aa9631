// One line that tells how far something has come, for a terminal that redraws it in place.
//   [##########..........]  50 %  1.5 of 3.0 GiB

public enum ProgressBar {
    public static func render(done: Int, total: Int, cells: Int = 30) -> String {
        let share = total > 0 ? min(1, max(0, Double(done) / Double(total))) : 1
        let filled = Int(share * Double(cells))
        let percent = String(Int(share * 100))
        return "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: cells - filled) + "] "
            + String(repeating: " ", count: 3 - percent.count) + percent + " %  " + HumanSize.progress(done, of: total)
    }
}
