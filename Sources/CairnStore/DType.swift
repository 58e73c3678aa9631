// The element types that Cairn saves, and how each is stored in a safetensors file.
//
// Where safetensors 0.8.0 and torch's HuggingFaceStorageReader both know a type, it is stored as itself. One key whose type
// the reader does not know makes it refuse the whole folder, so the others are stored as plain integers of the same bytes
// (F8_E8M0, F4_E2M1_X2) or as pairs with a last dimension of 2 (C32, C128); the real type is in the metadata (`cairn.table`).

public enum DType: String, Sendable, CaseIterable {
    case bool = "BOOL", u8 = "U8", i8 = "I8"
    case f8e5m2 = "F8_E5M2", f8e4m3 = "F8_E4M3", f8e5m2fnuz = "F8_E5M2FNUZ", f8e4m3fnuz = "F8_E4M3FNUZ", f8e8m0 = "F8_E8M0"
    /// Two 4-bit numbers in one byte; an element is the byte (torch's float4_e2m1fn_x2).
    case f4x2 = "F4_E2M1_X2"
    case i16 = "I16", u16 = "U16", f16 = "F16", bf16 = "BF16"
    case i32 = "I32", u32 = "U32", f32 = "F32", c32 = "C32"
    case i64 = "I64", u64 = "U64", f64 = "F64", c64 = "C64"
    case c128 = "C128"

    /// Bytes of one element.
    public var bytes: Int {
        switch self {
        case .bool, .u8, .i8, .f8e5m2, .f8e4m3, .f8e5m2fnuz, .f8e4m3fnuz, .f8e8m0, .f4x2: 1
        case .i16, .u16, .f16, .bf16: 2
        case .i32, .u32, .f32, .c32: 4
        case .i64, .u64, .f64, .c64: 8
        case .c128: 16
        }
    }

    /// The type that the file's header names.
    public var stored: DType {
        switch self {
        case .f8e8m0, .f4x2: .u8
        case .c32: .f16
        case .c128: .f64
        default: self
        }
    }

    /// Whether an element is stored as two, in a last dimension of 2.
    public var isPair: Bool { self == .c32 || self == .c128 }

    public func storedShape(_ shape: [Int]) -> [Int] { isPair ? shape + [2] : shape }
}
