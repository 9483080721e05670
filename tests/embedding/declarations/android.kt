// What the templates call of Android, as its reference documents it (API level 35): declarations, no code.
package android.content

abstract class Context {
    abstract val assets: android.content.res.AssetManager
    abstract val noBackupFilesDir: java.io.File
}
