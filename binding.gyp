{
  # CMakeLists.txt is the build. This file only hands over to it, for tools that insist on gyp.
  "targets": [
    {
      "target_name": "tokenflow",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/tokenflow.node"],
          "action": ["node", "node_modules/cmake-js/bin/cmake-js", "build"]
        }
      ]
    }
  ]
}
