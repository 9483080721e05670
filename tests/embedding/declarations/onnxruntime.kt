// What the templates call of com.microsoft.onnxruntime:onnxruntime-android: declarations as its source has them.
package ai.onnxruntime

import java.nio.ByteBuffer
import java.nio.DoubleBuffer
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer

class OrtEnvironment private constructor() {
    fun createSession(modelPath: String, options: OrtSession.SessionOptions): OrtSession = TODO()

    companion object {
        @JvmStatic fun getEnvironment(): OrtEnvironment = TODO()
    }
}

class OrtSession private constructor() : AutoCloseable {
    val inputNames: Set<String> get() = TODO()

    fun run(inputs: Map<String, OnnxTensor>): Result = TODO()

    override fun close(): Unit = TODO()

    class SessionOptions : AutoCloseable {
        fun setIntraOpNumThreads(numThreads: Int): Unit = TODO()

        fun setInterOpNumThreads(numThreads: Int): Unit = TODO()

        fun addConfigEntry(configKey: String, configValue: String): Unit = TODO()

        override fun close(): Unit = TODO()
    }

    class Result private constructor() : AutoCloseable {
        operator fun get(index: Int): OnnxValue = TODO()

        override fun close(): Unit = TODO()
    }
}

interface OnnxValue : AutoCloseable

enum class OnnxJavaType { INT8, UINT8 }

class TensorInfo private constructor() {
    val shape: LongArray get() = TODO()
}

class OnnxTensor private constructor() : OnnxValue {
    val info: TensorInfo get() = TODO()
    val byteBuffer: ByteBuffer get() = TODO()
    val floatBuffer: FloatBuffer get() = TODO()
    val doubleBuffer: DoubleBuffer get() = TODO()
    val intBuffer: IntBuffer get() = TODO()
    val longBuffer: LongBuffer get() = TODO()

    override fun close(): Unit = TODO()

    companion object {
        @JvmStatic
        fun createTensor(env: OrtEnvironment, data: ByteBuffer, shape: LongArray, type: OnnxJavaType): OnnxTensor = TODO()

        @JvmStatic fun createTensor(env: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor = TODO()

        @JvmStatic fun createTensor(env: OrtEnvironment, data: DoubleBuffer, shape: LongArray): OnnxTensor = TODO()

        @JvmStatic fun createTensor(env: OrtEnvironment, data: IntBuffer, shape: LongArray): OnnxTensor = TODO()

        @JvmStatic fun createTensor(env: OrtEnvironment, data: LongBuffer, shape: LongArray): OnnxTensor = TODO()
    }
}
