/// What a CLIP tokenizer is made of, read from the files of a bundle (docs/tokenizer.md, "Files in a bundle").
struct TokenizerFiles {
    struct Added {
        let content: [Unicode.Scalar]
        let id: Int32
        var singleWord = false
        var stripsLeft = false
        var stripsRight = false
        var normalized = false
    }

    struct Pair: Hashable {
        let left: Int32
        let right: Int32
    }

    private(set) var vocabulary: [Exact: Int32] = [:]
    private(set) var merges: [Pair: (rank: Int, id: Int32)] = [:]
    private(set) var added: [Added] = []
    /// Ids of each byte's letter, and of the same at a word's end.
    private(set) var letters: [Int32] = []
    private(set) var lastLetters: [Int32] = []
    private(set) var start: Int32 = 0
    private(set) var end: Int32 = 0
    private(set) var pad: Int32 = 0

    private let place: String
    private static let large = 1 << 24, small = 1 << 20, mostTokens = 1 << 20, mostAdded = 1 << 16
    private static let vocabularyFile = "vocab.json", mergesFile = "merges.txt", configFile = "tokenizer_config.json"
    private static let mapFile = "special_tokens_map.json"

    /// - Throws: `PlayerError` of the kind `bundle` for files that a tokenizer cannot be made of.
    init(_ files: [String: [UInt8]], at place: String) throws {
        self.place = place
        try readVocabulary(files)
        try readMerges(files)
        try readAdded(files)
    }

    private func fault(_ what: String, _ file: String) -> PlayerError {
        PlayerError(.bundle, what, at: "\(place)/\(file)", fix: damaged)
    }

    private func bytes(_ files: [String: [UInt8]], _ name: String, _ most: Int) throws -> [UInt8] {
        guard let data = files[name] else { throw fault("is missing.", name) }
        guard data.count <= most else { throw fault("is too large (expected at most \(most) bytes).", name) }
        return data
    }

    private func object(_ files: [String: [UInt8]], _ name: String, _ most: Int) throws -> JSONObject {
        let file = "\(place)/\(name)"
        let value = try JSON(parsing: try bytes(files, name, most), at: file)
        return try Checker(file: file).object(value, .top)
    }

    private mutating func readVocabulary(_ files: [String: [UInt8]]) throws {
        let name = TokenizerFiles.vocabularyFile
        let rows = try object(files, name, TokenizerFiles.large).rows
        let most = TokenizerFiles.mostTokens
        guard (1...most).contains(rows.count) else {
            throw fault("has \(rows.count) tokens (expected 1..\(most)).", name)
        }
        var ids: Set<Int> = []
        for (token, value) in rows {
            guard case .integer(let id) = value, (0..<most).contains(id) else {
                throw fault(
                    "gives \(JSON.quoted(token.text)) no id (got \(value.shown), expected 0..\(most - 1)).", name)
            }
            guard ids.insert(id).inserted else { throw fault("gives the id \(id) twice.", name) }
            vocabulary[token] = Int32(id)
        }
        let plain = Array(33...126) + Array(161...172) + Array(174...255)
        var others: UInt32 = 0x100
        for byte in 0..<256 {
            var letter = Unicode.Scalar(UInt8(byte))
            if !plain.contains(byte) {
                letter = Unicode.Scalar(others)!
                others += 1
            }
            guard let id = vocabulary[Exact(String(letter))], let last = vocabulary[Exact("\(letter)</w>")] else {
                throw fault("has no letter for the byte \(byte).", name)
            }
            letters.append(id)
            lastLetters.append(last)
        }
    }

    private mutating func readMerges(_ files: [String: [UInt8]]) throws {
        let name = TokenizerFiles.mergesFile
        guard let text = String(validUTF8: try bytes(files, name, TokenizerFiles.large)) else {
            throw fault("is not UTF-8 text.", name)
        }
        let lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        guard let first = lines.first, first.elementsEqual("#version: 0.2".utf8) else {
            throw fault("does not begin with its version (expected \"#version: 0.2\").", name)
        }
        guard lines.count <= TokenizerFiles.mostTokens + 1 else { throw fault("has too many merges.", name) }
        for (rank, line) in lines.dropFirst().enumerated() where !line.isEmpty {
            let parts = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map { String($0)! }
            guard parts.count == 2, let left = vocabulary[Exact(parts[0])], let right = vocabulary[Exact(parts[1])],
                let joined = vocabulary[Exact(parts[0] + parts[1])]
            else {
                throw fault("line \(rank + 2) joins no two tokens of vocab.json to a third.", name)
            }
            merges[Pair(left: left, right: right)] = (rank, joined)
        }
    }

    private mutating func readAdded(_ files: [String: [UInt8]]) throws {
        let name = TokenizerFiles.configFile
        let config = files[name] == nil ? JSONObject() : try object(files, name, TokenizerFiles.small)
        let roles = ["bos_token", "eos_token", "unk_token", "pad_token"]
        let usual = ["<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"]
        var chosen: [Added] = []
        if let decoder = config["added_tokens_decoder"], !decoder.isNull {
            let rows = try Checker(file: "\(place)/\(name)").table(
                decoder, TokenizerFiles.mostAdded,
                Place.top["added_tokens_decoder"]
            ).rows
            for (key, value) in rows {
                guard key.text.isASCII, key.text.utf8.count < 8, let id = Int32(key.text), id >= 0,
                    id < TokenizerFiles.mostTokens
                else { throw fault("has an added token of the id \(JSON.quoted(key.text)).", name) }
                added.append(try token(value, name, id: id))
            }
            for (role, usual) in zip(roles, usual) {
                let value = config[Exact(role)].flatMap { $0.isNull ? nil : $0 } ?? .text(usual)
                chosen.append(try special(value, name))
            }
        } else {
            let map = TokenizerFiles.mapFile
            let special = files[map] == nil ? JSONObject() : try object(files, map, TokenizerFiles.small)
            for (role, usual) in zip(roles, usual) {
                let key = Exact(role)
                let value =
                    special[key].flatMap { $0.isNull ? nil : $0 } ?? config[key].flatMap { $0.isNull ? nil : $0 }
                let token = try self.special(value ?? .text(usual), special[key] == nil ? name : map)
                chosen.append(token)
                added.removeAll { $0.content == token.content }  // of one that has several roles the last flags count
                added.append(token)
            }
        }
        let contents = Set(added.map { Exact(text($0.content)) })
        guard contents.count == added.count else { throw fault("has an added token twice.", name) }
        (start, end, pad) = (chosen[0].id, chosen[1].id, chosen[3].id)
    }

    /// One of the four special tokens: its id is that of an added token, or the vocabulary's.
    private func special(_ value: JSON, _ file: String) throws -> Added {
        let token = try token(value, file, id: 0, isSpecial: true)
        let known = added.first { $0.content == token.content }?.id ?? vocabulary[Exact(text(token.content))]
        guard let known else {
            throw fault("\(JSON.quoted(text(token.content))) is not in the vocabulary.", file)
        }
        return try self.token(value, file, id: known, isSpecial: true)
    }

    private func text(_ scalars: [Unicode.Scalar]) -> String {
        var text = String.UnicodeScalarView()
        text.append(contentsOf: scalars)
        return String(text)
    }

    private func token(_ value: JSON, _ file: String, id: Int32, isSpecial: Bool = false) throws -> Added {
        var content = value
        var flags = JSONObject()
        if case .object(let object) = value {
            content = object["content"] ?? .null
            flags = object
        }
        guard case .text(let text) = content, (1...512).contains(text.unicodeScalars.count) else {
            throw fault("an added token is no text of 1..512 letters (got \(content.shown)).", file)
        }
        var token = Added(content: Array(text.unicodeScalars), id: id)
        let check = Checker(file: "\(place)/\(file)")
        let at = Place.top.key(text)
        token.singleWord = try check.flag(flags, "single_word", at)
        token.stripsLeft = try check.flag(flags, "lstrip", at)
        token.stripsRight = try check.flag(flags, "rstrip", at)
        let special = try check.flag(flags, "special", at)
        token.normalized =
            flags["normalized"] == nil
            ? !(isSpecial || special) : try check.flag(flags, "normalized", at)
        return token
    }
}

extension JSON {
    var isNull: Bool {
        if case .null = self { return true }
        return false
    }
}
