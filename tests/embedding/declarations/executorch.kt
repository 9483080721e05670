// What the templates call of org.pytorch:executorch-android: declarations as its source has them, no code.
package org.pytorch.executorch

open class Module private constructor() : java.io.Closeable {
    open fun forward(vararg inputs: EValue): Array<EValue> = TODO()

    open fun destroy(): Unit = TODO()

    override fun close(): Unit = TODO()

    companion object {
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = 0, numThreads: Int = 0): Module = TODO()
    }
}

class EValue private constructor() {
    fun toTensor(): Tensor = TODO()

    companion object {
        @JvmStatic
        fun from(tensor: Tensor): EValue = TODO()
    }
}

abstract class Tensor internal constructor() {
    fun shape(): LongArray = TODO()

    open val dataAsFloatArray: FloatArray get() = TODO()
    open val dataAsDoubleArray: DoubleArray get() = TODO()
    open val dataAsByteArray: ByteArray get() = TODO()
    open val dataAsUnsignedByteArray: ByteArray get() = TODO()
    open val dataAsIntArray: IntArray get() = TODO()
    open val dataAsLongArray: LongArray get() = TODO()

    companion object {
        @JvmStatic fun fromBlobUnsigned(data: ByteArray, shape: LongArray): Tensor = TODO()

        @JvmStatic fun fromBlob(data: ByteArray, shape: LongArray): Tensor = TODO()

        @JvmStatic fun fromBlob(data: IntArray, shape: LongArray): Tensor = TODO()

        @JvmStatic fun fromBlob(data: LongArray, shape: LongArray): Tensor = TODO()

        @JvmStatic fun fromBlob(data: FloatArray, shape: LongArray): Tensor = TODO()

        @JvmStatic fun fromBlob(data: DoubleArray, shape: LongArray): Tensor = TODO()
    }
}
